"""VT-d layouts, against values that real units and kernels showed, decoded by hand.

CAP, ECAP, GSTS, IRTA and IRTEs stood in the registers and memory of QEMU 11.1.3 under stock v6.1
and v6.12 kernels; the rest says where it is from.
"""

from __future__ import annotations

import pytest

from harness.spec.pci import RequesterId
from harness.spec.vtd import (
    QUALIFIER_MASK,
    Capability,
    ExtendedCapability,
    FaultReason,
    FaultRecord,
    FaultStatus,
    GlobalStatus,
    PostedEntry,
    Register,
    RemappedEntry,
    SourceValidation,
    TableAddress,
    Version,
    decode_entry,
    reason_name,
)


def entry(high: int, low: int) -> int:
    return high << 64 | low


def test_registers_stand_where_the_specification_puts_them() -> None:
    assert {register.name: register.value for register in Register} == {
        "VER": 0x000,
        "CAP": 0x008,
        "ECAP": 0x010,
        "GCMD": 0x018,
        "GSTS": 0x01C,
        "FSTS": 0x034,
        "FECTL": 0x038,
        "FEDATA": 0x03C,
        "FEADDR": 0x040,
        "IRTA": 0x0B8,
    }


def test_version_of_qemu_is_1_0() -> None:
    version = Version.unpack(0x10)
    assert (version.major, version.minor, version.reserved) == (1, 0, 0)


def test_capability_of_a_remapping_only_machine() -> None:
    cap = Capability.unpack(0x80D2008C222F0006)
    assert cap.reserved == 0
    assert {name: value for name, value in cap if value} == {
        "set_root_table_invalidates": 1,
        "read_draining": 1,
        "write_draining": 1,
        "max_address_mask": 18,
        "page_selective_invalidation": 1,
        "second_stage_large_pages": 0b0011,
        "fault_register_offset": 0x22,
        "max_guest_address_width": 47,
        "domains": 6,
    }


def test_capability_with_caching_mode_and_posting() -> None:
    # "dmar0: ... cap d2008c22260286": QEMU with caching-mode=on, aw-bits=39.
    cap = Capability.unpack(0x00D2008C22260286)
    assert (cap.caching_mode, cap.guest_address_widths, cap.posted_interrupts) == (1, 0b10, 0)
    # Bit 59 is PI: Linux drivers/iommu/intel/iommu.h, cap_pi_support().
    assert Capability.unpack(1 << 59).posted_interrupts == 1


def test_extended_capability_says_whether_destinations_can_be_32_bits() -> None:
    x2apic = ExtendedCapability.unpack(0xF00F5A)
    assert x2apic.reserved == 0
    assert {name: value for name, value in x2apic if value} == {
        "max_handle_mask": 15,
        "iotlb_register_offset": 0xF,
        "pass_through": 1,
        "extended_interrupt_mode": 1,
        "interrupt_remapping": 1,
        "queued_invalidation": 1,
    }
    xapic = ExtendedCapability.unpack(0xF00F4A)
    assert (xapic.extended_interrupt_mode, xapic.interrupt_remapping) == (0, 1)


def test_snoop_control_and_scalable_mode_stand_at_bits_7_and_43() -> None:
    # Linux drivers/iommu/intel/iommu.h: ecap_sc_support(), ecap_smts().
    ecap = ExtendedCapability.unpack(1 << 43 | 1 << 7)
    assert {name for name, value in ecap if value} == {"scalable_mode", "snoop_control"}


def test_global_status_of_a_guest_that_remaps() -> None:
    status = GlobalStatus.unpack(0x0700_0000)
    assert {name for name, value in status if value} == {
        "queued_invalidation_enabled",
        "remapping_enabled",
        "remap_table_pointer_set",
    }
    # QEMU hw/i386/intel_iommu_internal.h: VTD_GSTS_CFIS is bit 23, VTD_GSTS_TES bit 31.
    assert GlobalStatus.unpack(1 << 23).compatibility_format == 1
    assert GlobalStatus.unpack(1 << 31).translation_enabled == 1


def test_fault_status_names_the_record_and_the_overflow() -> None:
    status = FaultStatus.unpack(0x0303)
    assert (status.record_index, status.pending, status.overflow) == (3, 1, 1)


def test_table_address_holds_page_mode_and_size() -> None:
    x2apic = TableAddress.unpack(0x120080F)
    assert (x2apic.address, x2apic.extended_mode, x2apic.entries) == (0x1200000, 1, 65536)
    xapic = TableAddress.unpack(0x120000F)
    assert (xapic.address, xapic.extended_mode, xapic.entries) == (0x1200000, 0, 65536)
    # S = 7: 256 entries fill one page.
    assert TableAddress.unpack(0x1007).entries == 256


def test_entry_of_a_root_port_in_x2apic_mode() -> None:
    irte = decode_entry(entry(0x0000000000040018, 0x000000010020000D))
    assert isinstance(irte, RemappedEntry)
    assert {name: value for name, value in irte if value} == {
        "source_validation": SourceValidation.SOURCE_ID,
        "source_id": 0x0018,
        "destination_id": 1,
        "vector": 0x20,
        "redirection_hint": 1,
        "destination_mode": 1,
        "present": 1,
    }
    assert irte.destination(extended_mode=True) == 1
    assert irte.reserved_bits(extended_mode=True) == 0
    assert str(RequesterId(irte.source_id)) == "00:03.0"


def test_entry_in_xapic_mode_has_its_destination_in_dst_15_8() -> None:
    irte = decode_entry(entry(0x0000000000040100, 0x000002000025000D))
    assert isinstance(irte, RemappedEntry)
    assert (irte.destination(extended_mode=False), irte.vector) == (2, 0x25)
    assert irte.reserved_bits(extended_mode=False) == 0


def test_level_triggered_entry_of_another_kernel() -> None:
    # FreeBSD dmesg: "programming irte[0] rid 0xf0ff high 0x4f0ff low 0x300011".
    irte = decode_entry(entry(0x4F0FF, 0x300011))
    assert isinstance(irte, RemappedEntry)
    assert (irte.vector, irte.trigger_mode, irte.delivery_mode) == (0x30, 1, 0)
    assert str(RequesterId(irte.source_id)) == "f0:1f.7"


def test_destination_bits_outside_15_8_are_reserved_in_xapic_mode_only() -> None:
    irte = RemappedEntry(destination_id=0x00010203, present=1)
    assert irte.destination(extended_mode=False) == 2
    assert irte.reserved_bits(extended_mode=False) == 0x00010003 << 32
    assert irte.reserved_bits(extended_mode=True) == 0


def test_posted_entry_gives_the_address_of_its_descriptor() -> None:
    # Descriptor 1_2345_6740h, vector 51h, urgent, behind 00:03.0; composed from figure 9-10.
    irte = decode_entry(entry(0x0000000100040018, 0x234567400051C001))
    assert isinstance(irte, PostedEntry)
    assert irte.descriptor == 0x1_2345_6740
    assert (irte.vector, irte.urgent, irte.source_id, irte.reserved) == (0x51, 1, 0x18, 0)


@pytest.mark.parametrize("bit", [12, 13, 14, 24, 31, 84, 127])
def test_reserved_bits_of_a_remapped_entry_are_seen(bit: int) -> None:
    irte = decode_entry(1 << bit | 1)
    assert isinstance(irte, RemappedEntry)
    assert irte.reserved_bits(extended_mode=True) == 1 << bit


@pytest.mark.parametrize("bit", [2, 7, 12, 13, 24, 37, 84, 95])
def test_reserved_bits_of_a_posted_entry_are_seen(bit: int) -> None:
    assert decode_entry(1 << bit | 1 << 15 | 1).reserved == 1 << bit


def test_interrupt_fault_record_names_sender_reason_and_index() -> None:
    # QEMU vtd_report_ir_fault(): index in 63:48 of the low half, reason and source id in the high.
    record = FaultRecord.unpack(entry(0x8000_0022_0000_FFFF, 0x1234_0000_0000_0000))
    assert (record.fault, record.reason, record.source_id) == (1, 0x22, 0xFFFF)
    assert (record.interrupt_index, record.page_address) == (0x1234, None)
    assert str(record) == "fault 0x22 (entry not present) from ff:1f.7 at IRTE 4660"


def test_only_some_fault_reasons_come_with_an_index() -> None:
    # Section 11.4.7.6: FI is undefined for 20h, 25h, 29h, 2Ah and 2Bh.
    def record(reason: int) -> FaultRecord:
        return FaultRecord(fault=1, reason=reason, source_id=0x0100, fault_info=0x1234 << 36)

    with_index = {reason for reason in range(0x100) if record(reason).interrupt_index == 0x1234}
    assert with_index == {0x21, 0x22, 0x23, 0x24, 0x26, 0x27, 0x28}
    with_page = {reason for reason in range(0x100) if record(reason).page_address is not None}
    assert with_page == set(range(0x100)) - set(range(0x20, 0x2C))
    assert str(record(0x25)) == "fault 0x25 (compatibility blocked) from 01:00.0"


def test_dma_fault_record_names_the_page() -> None:
    record = FaultRecord.unpack(entry(0xC000_0006_0000_00FA, 0xFFFE_1000))
    assert (record.type_1, record.interrupt_index, record.page_address) == (1, None, 0xFFFE1000)
    assert str(record) == "fault 0x06 (no read permission) from 00:1f.2 at page 0xfffe1000"


def test_dma_fault_reasons_have_the_numbers_that_linux_knows() -> None:
    # Linux drivers/iommu/intel/dmar.c, dma_remap_fault_reasons[]: from 01h on, in this order.
    assert [reason.name for reason in sorted(FaultReason) if reason < 0x20] == [
        "ROOT_NOT_PRESENT",
        "CONTEXT_NOT_PRESENT",
        "CONTEXT_INVALID",
        "ADDRESS_BEYOND_WIDTH",
        "NO_WRITE_PERMISSION",
        "NO_READ_PERMISSION",
        "PAGE_TABLE_UNREADABLE",
        "ROOT_TABLE_UNREADABLE",
        "CONTEXT_TABLE_UNREADABLE",
        "ROOT_RESERVED",
        "CONTEXT_RESERVED",
        "PAGE_TABLE_RESERVED",
        "CONTEXT_BLOCKS",
    ]
    assert [int(reason) for reason in FaultReason if reason < 0x20] == list(range(1, 14))


def test_source_validation_types_are_those_of_linux() -> None:
    # Linux drivers/iommu/intel/irq_remapping.c: SVT_NO_VERIFY, SVT_VERIFY_SID_SQ, SVT_VERIFY_BUS.
    assert [SourceValidation[name] for name in ("NONE", "SOURCE_ID", "BUS_RANGE")] == [0, 1, 2]
    assert SourceValidation(3) is SourceValidation.RESERVED


def test_fault_reasons_have_the_numbers_of_table_15() -> None:
    assert {reason.name: reason.value for reason in FaultReason if reason >= 0x20} == {
        "REQUEST_RESERVED": 0x20,
        "INDEX_BEYOND_TABLE": 0x21,
        "ENTRY_NOT_PRESENT": 0x22,
        "TABLE_UNREADABLE": 0x23,
        "ENTRY_RESERVED": 0x24,
        "COMPATIBILITY_BLOCKED": 0x25,
        "SOURCE_ID_MISMATCH": 0x26,
        "DESCRIPTOR_UNREADABLE": 0x27,
        "DESCRIPTOR_RESERVED": 0x28,
        "MALFORMED_REQUEST": 0x29,
        "EXTENDED_MODE_REQUIRED": 0x2A,
        "REMAPPING_REQUIRED": 0x2B,
    }
    assert reason_name(0x7F) == "unknown reason"


def test_qualifier_leaves_out_the_bits_that_section_9_9_says() -> None:
    # QEMU vtd_irte_get(): vtd_svt_mask[] = {0xffff, 0xfffb, 0xfff9, 0xfff8}.
    assert [QUALIFIER_MASK[sq] for sq in range(4)] == [0xFFFF, 0xFFFB, 0xFFF9, 0xFFF8]
