# Ref: Intel Virtualization Technology for Directed I/O Architecture Specification, Rev. 5.10
#      (D51397-018): chapter 11 "Register Descriptions", sections 9.9 and 9.10 (IRTE for remapped
#      and for posted interrupts), 5.1.4.1 (interrupt-remapping faults); fault reasons 01h-0Dh as
#      in Rev. 2.4, appendix A, and QEMU 11.1, hw/i386/intel_iommu_internal.h.
"""VT-d: the registers, table entries and fault reasons that interrupt remapping goes by."""

from __future__ import annotations

import enum
from typing import Final

from harness.spec.bitfield import Bits, Layout, Reserved
from harness.spec.pci import RequesterId


# fmt: off
class Register(enum.IntEnum):
    """Offsets from the base that the DMAR table's DRHD structure gives (section 11.4)."""

    VER    = 0x00
    """Version, 32 bits."""
    CAP    = 0x08
    """Capability, 64 bits."""
    ECAP   = 0x10
    """Extended Capability, 64 bits."""
    GCMD   = 0x18
    """Global Command, 32 bits, write only."""
    GSTS   = 0x1C
    """Global Status, 32 bits."""
    FSTS   = 0x34
    """Fault Status, 32 bits."""
    FECTL  = 0x38
    """Fault Event Control, 32 bits."""
    FEDATA = 0x3C
    """Fault Event Data, 32 bits."""
    FEADDR = 0x40
    """Fault Event Address, 32 bits."""
    IRTA   = 0xB8
    """Interrupt Remapping Table Address, 64 bits."""


class Version(Layout, bits=32):
    """VER_REG (section 11.4.1)."""

    reserved = Reserved((31, 8))
    major    = Bits(7, 4)        # MAX
    minor    = Bits(3, 0)        # MIN


class Capability(Layout, bits=64):
    """CAP_REG (section 11.4.2)."""

    set_root_table_invalidates  = Bits(63)      # ESRTPS
    set_remap_table_invalidates = Bits(62)      # ESIRTPS
    enhanced_commands           = Bits(61)      # ECMDS
    first_stage_5_level         = Bits(60)      # FS5LP
    posted_interrupts           = Bits(59)      # PI
    first_stage_1g_pages        = Bits(56)      # FS1GP
    read_draining               = Bits(55)      # DRD
    write_draining              = Bits(54)      # DWD
    max_address_mask            = Bits(53, 48)  # MAMV
    fault_registers             = Bits(47, 40)  # NFR: number of fault recording registers, less one
    page_selective_invalidation = Bits(39)      # PSI
    second_stage_large_pages    = Bits(37, 34)  # SSLPS
    fault_register_offset       = Bits(33, 24)  # FRO: in units of 16 bytes
    zero_length_read            = Bits(22)      # ZLR
    max_guest_address_width     = Bits(21, 16)  # MGAW: less one
    guest_address_widths        = Bits(12, 8)   # SAGAW
    caching_mode                = Bits(7)       # CM
    protected_high_memory       = Bits(6)       # PHMR
    protected_low_memory        = Bits(5)       # PLMR
    write_buffer_flushing       = Bits(4)       # RWBF
    domains                     = Bits(2, 0)    # ND
    reserved                    = Reserved((58, 57), (38, 38), (23, 23), (15, 13), (3, 3))


class ExtendedCapability(Layout, bits=64):
    """ECAP_REG (section 11.4.3)."""

    remapping_required            = Bits(62)      # IRREQ
    extended_mode_required        = Bits(61)      # EIMER
    rdt_configuration             = Bits(60)      # RDTS
    host_permission_1g_pages      = Bits(59)      # HPT1GPS
    stop_marker                   = Bits(58)      # SMS
    second_stage_io_permissions   = Bits(57)      # SSIRWS
    pasid_in_translated_requests  = Bits(56)      # PTRS
    host_permission_tables        = Bits(55)      # HPTS
    rid_privilege                 = Bits(53)      # RPRIVS
    abort_dma_mode                = Bits(52)      # ADMS
    performance_monitoring        = Bits(51)      # PMS
    tdx_connect                   = Bits(50)      # TDXCS
    rid_pasid                     = Bits(49)      # RPS
    scalable_mode_coherency       = Bits(48)      # SMPWCS
    first_stage_translation       = Bits(47)      # FSTS
    second_stage_translation      = Bits(46)      # SSTS
    second_stage_accessed_dirty   = Bits(45)      # SSADS
    virtual_commands              = Bits(44)      # VCS
    scalable_mode                 = Bits(43)      # SMTS
    page_request_drain            = Bits(42)      # PDS
    device_tlb_throttle           = Bits(41)      # DIT
    pasid                         = Bits(40)      # PASID
    pasid_size                    = Bits(39, 35)  # PSS: less one
    extended_accessed_flag        = Bits(34)      # EAFS
    no_write_flag                 = Bits(33)      # NWFS
    supervisor_requests           = Bits(31)      # SRS
    execute_requests              = Bits(30)      # ERS
    page_requests                 = Bits(29)      # PRS
    nested_translation            = Bits(26)      # NEST
    memory_type                   = Bits(25)      # MTS
    max_handle_mask               = Bits(23, 20)  # MHMV
    iotlb_register_offset         = Bits(17, 8)   # IRO: in units of 16 bytes
    snoop_control                 = Bits(7)       # SC
    pass_through                  = Bits(6)       # PT
    extended_interrupt_mode       = Bits(4)       # EIM: 32-bit APIC ids
    interrupt_remapping           = Bits(3)       # IR
    device_tlb                    = Bits(2)       # DT
    queued_invalidation           = Bits(1)       # QI
    page_walk_coherency           = Bits(0)       # C
    reserved                      = Reserved(
        (63, 63), (54, 54), (32, 32), (28, 27), (24, 24), (19, 18), (5, 5)
    )


class GlobalStatus(Layout, bits=32):
    """GSTS_REG (section 11.4.4.2)."""

    translation_enabled         = Bits(31)  # TES
    root_table_pointer_set      = Bits(30)  # RTPS
    write_buffer_flushing       = Bits(27)  # WBFS
    queued_invalidation_enabled = Bits(26)  # QIES
    remapping_enabled           = Bits(25)  # IRES
    remap_table_pointer_set     = Bits(24)  # IRTPS
    compatibility_format        = Bits(23)  # CFIS: such messages pass through
    reserved                    = Reserved((29, 28), (22, 0))


class FaultStatus(Layout, bits=32):
    """FSTS_REG (section 11.4.7.1)."""

    record_index            = Bits(15, 8)  # FRI
    page_request_overflow   = Bits(7)      # PRO, deprecated
    invalidation_timeout    = Bits(6)      # ITE
    invalidation_completion = Bits(5)      # ICE
    invalidation_queue      = Bits(4)      # IQE
    pending                 = Bits(1)      # PPF
    overflow                = Bits(0)      # PFO
    reserved                = Reserved((31, 16), (3, 2))


class FaultRecord(Layout, bits=128):
    """FRCD_REG [n] (section 11.4.7.6)."""

    fault            = Bits(127)       # F
    type_1           = Bits(126)       # T1
    address_type     = Bits(125, 124)  # AT
    pasid            = Bits(123, 104)  # PV
    reason           = Bits(103, 96)   # FR
    pasid_present    = Bits(95)        # PP
    execute          = Bits(94)        # EXE
    privileged       = Bits(93)        # PRIV
    type_2           = Bits(92)        # T2
    source_id        = Bits(79, 64)    # SID
    fault_info       = Bits(63, 12)    # FI
    reserved         = Reserved((91, 80), (11, 0))

    @property
    def interrupt_index(self) -> int | None:
        """Index of the IRTE: FI bits 63:48; None where the reason leaves them undefined."""
        if self.reason not in REASONS_WITH_INDEX:
            return None
        return self.fault_info >> (48 - 12)

    @property
    def page_address(self) -> int | None:
        """Page that a DMA request asked for, None for an interrupt-remapping fault."""
        return None if self.reason in _INTERRUPT_REASONS else self.fault_info << 12

    def __str__(self) -> str:
        if (index := self.interrupt_index) is not None:
            where = f" at IRTE {index}"
        else:
            where = "" if (page := self.page_address) is None else f" at page {page:#x}"
        text = f"fault {self.reason:#04x} ({reason_name(self.reason)})"
        return f"{text} from {RequesterId(self.source_id)}{where}"


class TableAddress(Layout, bits=64):
    """IRTA_REG (section 11.4.10)."""

    page          = Bits(63, 12)  # IRTA: the table's address, in pages of 4 KiB
    extended_mode = Bits(11)      # EIME: x2APIC mode, destinations are 32 bits
    reserved      = Reserved((10, 4))
    size          = Bits(3, 0)    # S: the table has 2^(S+1) entries

    @property
    def address(self) -> int:
        """Physical address of the table."""
        return self.page << 12

    @property
    def entries(self) -> int:
        """Number of entries that the table has."""
        return 2 << self.size


class RemappedEntry(Layout, bits=128):
    """IRTE for remapped interrupts, IM=0 (section 9.9, figure 9-9)."""

    source_validation = Bits(83, 82)  # SVT, see SourceValidation
    source_qualifier  = Bits(81, 80)  # SQ, see QUALIFIER_MASK
    source_id         = Bits(79, 64)  # SID
    destination_id    = Bits(63, 32)  # DST: format depends on IRTA_REG.EIME
    vector            = Bits(23, 16)  # V
    mode              = Bits(15)      # IM: 0
    available         = Bits(11, 8)   # AVAIL
    delivery_mode     = Bits(7, 5)    # DLM, see harness.spec.msi.DeliveryMode
    trigger_mode      = Bits(4)       # TM: 1 is level
    redirection_hint  = Bits(3)       # RH
    destination_mode  = Bits(2)       # DM: 1 is logical
    fault_disable     = Bits(1)       # FPD
    present           = Bits(0)       # P
    reserved          = Reserved((127, 84), (31, 24), (14, 12))

    def destination(self, *, extended_mode: bool) -> int:
        """Return the APIC id or logical destination: DST[31:0] under EIME, else DST[15:8]."""
        return self.destination_id if extended_mode else (self.destination_id >> 8) & 0xFF

    def reserved_bits(self, *, extended_mode: bool) -> int:
        """Return the reserved bits that are set, in place; without EIME most of DST is reserved."""
        narrow = 0 if extended_mode else (self.destination_id & ~0xFF00) << 32
        return self.reserved | narrow


class PostedEntry(Layout, bits=128):
    """IRTE for posted interrupts, IM=1 (section 9.10, figure 9-10)."""

    descriptor_high   = Bits(127, 96)  # PDAH: descriptor address bits 63:32
    source_validation = Bits(83, 82)   # SVT
    source_qualifier  = Bits(81, 80)   # SQ
    source_id         = Bits(79, 64)   # SID
    descriptor_low    = Bits(63, 38)   # PDAL: descriptor address bits 31:6
    vector            = Bits(23, 16)   # VV: virtual vector
    mode              = Bits(15)       # IM: 1
    urgent            = Bits(14)       # URG
    available         = Bits(11, 8)    # AVAIL
    fault_disable     = Bits(1)        # FPD
    present           = Bits(0)        # P
    reserved          = Reserved((95, 84), (37, 24), (13, 12), (7, 2))

    @property
    def descriptor(self) -> int:
        """Physical address of the 64-byte Posted Interrupt Descriptor."""
        return self.descriptor_high << 32 | self.descriptor_low << 6
# fmt: on


Entry = RemappedEntry | PostedEntry
"""An IRTE of either kind."""
ENTRY_SIZE: Final = 16
"""Bytes of an IRTE."""
FAULT_RECORD_SIZE: Final = 16
"""Bytes of a fault recording register."""
REGISTER_OFFSET_UNIT: Final = 16
"""Bytes that CAP_REG.FRO and ECAP_REG.IRO count in."""


def decode_entry(value: int | bytes) -> Entry:
    """Return an IRTE, of the kind that its IRTE Mode (IM) bit says.

    :raises ValueError: not 16 bytes, or more than 128 bits.
    """
    entry = RemappedEntry.unpack(value)
    return PostedEntry.unpack(entry.value) if entry.mode else entry


class SourceValidation(enum.IntEnum):
    """Source Validation Type of an IRTE (SVT, section 9.9)."""

    NONE = 0b00
    """Any requester may use the entry."""
    SOURCE_ID = 0b01
    """The requester id is compared with SID, less the bits that SQ leaves out."""
    BUS_RANGE = 0b10
    """The requester's bus number lies in SID[15:8] (start) to SID[7:0] (end), both included."""
    RESERVED = 0b11


QUALIFIER_MASK: Final = {0b00: 0xFFFF, 0b01: 0xFFFB, 0b10: 0xFFF9, 0b11: 0xFFF8}
"""Source-id Qualifier (SQ) to the bits of the requester id that are compared (section 9.9)."""


class FaultReason(enum.IntEnum):
    """Fault Reason (FR): why a request was blocked."""

    ROOT_NOT_PRESENT = 0x01
    """P is clear in the root entry."""
    CONTEXT_NOT_PRESENT = 0x02
    """P is clear in the context entry."""
    CONTEXT_INVALID = 0x03
    """The context entry is programmed wrongly."""
    ADDRESS_BEYOND_WIDTH = 0x04
    """The DMA address is wider than the domain's."""
    NO_WRITE_PERMISSION = 0x05
    """The page may not be written."""
    NO_READ_PERMISSION = 0x06
    """The page may not be read."""
    PAGE_TABLE_UNREADABLE = 0x07
    """A page-table entry could not be read."""
    ROOT_TABLE_UNREADABLE = 0x08
    """The root table could not be read."""
    CONTEXT_TABLE_UNREADABLE = 0x09
    """The context table could not be read."""
    ROOT_RESERVED = 0x0A
    """Reserved bits are set in the root entry."""
    CONTEXT_RESERVED = 0x0B
    """Reserved bits are set in the context entry."""
    PAGE_TABLE_RESERVED = 0x0C
    """Reserved bits are set in a page-table entry."""
    CONTEXT_BLOCKS = 0x0D
    """The context entry's translation type blocks such a request."""

    REQUEST_RESERVED = 0x20
    """Reserved bits are set in a remappable-format interrupt request."""
    INDEX_BEYOND_TABLE = 0x21
    """interrupt_index is not inside the table."""
    ENTRY_NOT_PRESENT = 0x22
    """P is clear in the IRTE."""
    TABLE_UNREADABLE = 0x23
    """The table could not be read."""
    ENTRY_RESERVED = 0x24
    """Reserved bits are set, or conditional ones programmed wrongly, in a present IRTE."""
    COMPATIBILITY_BLOCKED = 0x25
    """A compatibility-format request, while EIME is set or CFIS is clear."""
    SOURCE_ID_MISMATCH = 0x26
    """The requester is not the one that SID, SQ and SVT of the IRTE allow."""
    DESCRIPTOR_UNREADABLE = 0x27
    """The Posted Interrupt Descriptor could not be read."""
    DESCRIPTOR_RESERVED = 0x28
    """Reserved bits are set in the Posted Interrupt Descriptor."""
    MALFORMED_REQUEST = 0x29
    """A write to FEEx_xxxxh that is not a valid interrupt request."""
    EXTENDED_MODE_REQUIRED = 0x2A
    """EIME is clear on a unit that reports EIMER."""
    REMAPPING_REQUIRED = 0x2B
    """Remapping is off on a unit that reports IRREQ."""


QUALIFIED_REASONS: Final = frozenset(
    {
        FaultReason.ENTRY_NOT_PRESENT,
        FaultReason.ENTRY_RESERVED,
        FaultReason.SOURCE_ID_MISMATCH,
        FaultReason.DESCRIPTOR_UNREADABLE,
        FaultReason.DESCRIPTOR_RESERVED,
    }
)
"""Reasons that are not recorded while FPD is set in the IRTE (table 15)."""

_INTERRUPT_REASONS: Final = frozenset(range(0x20, 0x2C))
REASONS_WITH_INDEX: Final = _INTERRUPT_REASONS - {0x20, 0x25, 0x29, 0x2A, 0x2B}
"""Faults of interrupts whose record names the IRTE (section 11.4.7.6): FI 63:48 is undefined for
the others."""


def reason_name(reason: int) -> str:
    """Return a fault reason in words; unknown numbers are carried."""
    try:
        return FaultReason(reason).name.lower().replace("_", " ")
    except ValueError:
        return "unknown reason"
