# Ref: PCI Express Base Specification Revision 6.0: 7.5.1 (type 0 header),
#      7.5.3 (PCI Express capability), 7.7.1 (MSI), 7.7.2 (MSI-X), 2.2.6.2 (requester id);
#      Linux include/uapi/linux/pci_regs.h (v6.12) for the names.
"""Config space of a PCI Express function: the header and the function's capabilities."""

from __future__ import annotations

import enum
import re
from typing import Final, Self

from harness.spec.bitfield import Bits, Layout, Reserved

CONFIG_SIZE: Final = 4096
"""Config space of a PCI Express function, in bytes."""
CAPABILITIES_START: Final = 0x40
"""First byte behind the header."""
CAPABILITIES_END: Final = 0x100
"""First byte of the extended capabilities."""


# fmt: off
class Header(enum.IntEnum):
    """Offsets in the type 0 header (7.5.1)."""

    VENDOR_ID           = 0x00
    DEVICE_ID           = 0x02
    COMMAND             = 0x04
    STATUS              = 0x06
    REVISION_ID         = 0x08
    CLASS_CODE          = 0x09
    CACHE_LINE_SIZE     = 0x0C
    LATENCY_TIMER       = 0x0D
    HEADER_TYPE         = 0x0E
    BIST                = 0x0F
    BAR0                = 0x10
    BAR1                = 0x14
    BAR2                = 0x18
    BAR3                = 0x1C
    BAR4                = 0x20
    BAR5                = 0x24
    CARDBUS_CIS         = 0x28
    SUBSYSTEM_VENDOR_ID = 0x2C
    SUBSYSTEM_ID        = 0x2E
    EXPANSION_ROM       = 0x30
    CAPABILITIES        = 0x34
    INTERRUPT_LINE      = 0x3C
    INTERRUPT_PIN       = 0x3D


class Command(Layout, bits=16):
    """Command register (7.5.1.1.3)."""

    io_space               = Bits(0)
    memory_space           = Bits(1)
    bus_master             = Bits(2)   # the function may send memory requests: DMA and messages
    special_cycles         = Bits(3)
    memory_write_inval     = Bits(4)
    vga_palette_snoop      = Bits(5)
    parity_error_response  = Bits(6)
    idsel_stepping         = Bits(7)
    serr_enable            = Bits(8)
    fast_back_to_back      = Bits(9)
    interrupt_disable      = Bits(10)
    reserved               = Reserved((15, 11))


class Status(Layout, bits=16):
    """Status register (7.5.1.1.4)."""

    immediate_readiness    = Bits(0)
    interrupt_status       = Bits(3)
    capabilities_list      = Bits(4)
    capable_66mhz          = Bits(5)
    fast_back_to_back      = Bits(7)
    master_data_parity     = Bits(8)
    devsel_timing          = Bits(10, 9)
    signaled_target_abort  = Bits(11)
    received_target_abort  = Bits(12)
    received_master_abort  = Bits(13)
    signaled_system_error  = Bits(14)
    detected_parity_error  = Bits(15)
    reserved               = Reserved((2, 1), (6, 6))
# fmt: on


class RequesterId(int):
    """Who sent a request: bus in 15:8, device in 7:3, function in 2:0 (2.2.6.2).

    As text it is what Linux prints, ``01:00.0``.
    """

    _TEXT: Final = re.compile(r"(?:0000:)?([0-9a-f]{2}):([0-1][0-9a-f])\.([0-7])")

    def __new__(cls, value: int) -> Self:
        """:raises ValueError: more than 16 bits."""
        if not 0 <= value <= 0xFFFF:
            raise ValueError(f"{value:#x} is no requester id")
        return super().__new__(cls, value)

    @classmethod
    def of(cls, bus: int, device: int = 0, function: int = 0) -> Self:
        """Return the id of a function at a place."""
        return cls(bus << 8 | device << 3 | function)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the id of ``01:00.0``, or of a slot of the first domain, ``0000:01:00.0``.

        :raises ValueError: it is neither.
        """
        match = cls._TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"not a PCI address: {text!r}")
        return cls.of(*(int(part, 16) for part in match.groups()))

    @property
    def bus(self) -> int:
        """Bus number."""
        return self >> 8

    @property
    def device(self) -> int:
        """Device number."""
        return self >> 3 & 0x1F

    @property
    def function(self) -> int:
        """Function number."""
        return self & 7

    @property
    def slot(self) -> str:
        """Linux's name of the function: ``0000:01:00.0``."""
        return f"0000:{self}"

    def __str__(self) -> str:
        return f"{self.bus:02x}:{self.device:02x}.{self.function}"

    def __repr__(self) -> str:
        return f"<RequesterId {self}>"


BAR_ADDRESS_MASK: Final = 0xFFFFFFF0
"""Address bits of a 32-bit memory BAR (7.5.1.2.1); below stand type and prefetchable, here 0."""


class CapabilityId(enum.IntEnum):
    """PCI_CAP_ID_*."""

    MSI = 0x05
    VENDOR = 0x09
    EXPRESS = 0x10
    MSIX = 0x11


CAPABILITY_HEADER_SIZE: Final = 2
"""Capability id and pointer to the next one, a byte each."""


# fmt: off
class MsiControl(Layout, bits=16):
    """Message Control of MSI, at offset 2 of the capability (7.7.1.2)."""

    enable                   = Bits(0)
    multiple_message_capable = Bits(3, 1)  # log2 of the messages the function can use
    multiple_message_enable  = Bits(6, 4)  # log2 of the messages it was given
    address_64bit            = Bits(7)
    per_vector_mask          = Bits(8)
    extended_data_capable    = Bits(9)
    extended_data_enable     = Bits(10)
    reserved                 = Reserved((15, 11))


class MsixControl(Layout, bits=16):
    """Message Control of MSI-X, at offset 2 of the capability (7.7.2.2)."""

    table_size    = Bits(10, 0)  # number of vectors less one
    function_mask = Bits(14)
    enable        = Bits(15)
    reserved      = Reserved((13, 11))


class MsixLocation(Layout, bits=32):
    """Where the MSI-X table (offset 4) or PBA (offset 8) lies (7.7.2.3, 7.7.2.4)."""

    bar_index = Bits(2, 0)  # BIR
    offset    = Bits(31, 3)  # in units of 8 bytes


class DeviceControl(Layout, bits=16):
    """Device Control of the PCI Express capability, at its offset 8 (7.5.3.4)."""

    correctable_reporting  = Bits(0)
    non_fatal_reporting    = Bits(1)
    fatal_reporting        = Bits(2)
    unsupported_reporting  = Bits(3)
    relaxed_ordering       = Bits(4)
    max_payload_size       = Bits(7, 5)
    extended_tag           = Bits(8)
    phantom_functions      = Bits(9)
    aux_power              = Bits(10)
    no_snoop               = Bits(11)
    max_read_request_size  = Bits(14, 12)
    initiate_flr           = Bits(15)  # write 1: function level reset; reads 0
# fmt: on


MSIX_CAPABILITY_SIZE: Final = 12
EXPRESS_CAPABILITY_SIZE: Final = 0x3C
DEVICE_CONTROL: Final = 8
"""Offset of :class:`DeviceControl` in the PCI Express capability."""


def msi_offsets(*, address_64bit: bool, per_vector_mask: bool) -> dict[str, tuple[int, int]]:
    """Return the registers of an MSI capability of this shape: name to (offset, bytes).

    Figures 7-45 to 7-48: the upper address moves the rest down by four, the mask and pending
    registers are there only with per-vector masking.
    """
    data = 12 if address_64bit else 8
    registers = {"control": (2, 2), "address_low": (4, 4), "data": (data, 2)}
    if address_64bit:
        registers["address_high"] = (8, 4)
    if per_vector_mask:
        registers["mask"] = (data + 4, 4)
        registers["pending"] = (data + 8, 4)
    return registers
