# Ref: Intel Virtualization Technology for Directed I/O Architecture Specification, Rev. 5.10
#      (D51397-018), sections 5.1.2.1 "Interrupt Requests in Intel 64 Compatibility Format" and
#      5.1.2.2 "Interrupt Requests in Remappable Format"; Intel SDM vol. 3A, "Message Signalled
#      Interrupts"; PCI Express Base Specification 6.0, section 7.7.2 "MSI-X Capability and Table
#      Structure"; Linux arch/x86/include/asm/msi.h (v6.12), struct x86_msi_addr_lo.
"""Interrupt messages as they stand in a store: one address, one datum."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from harness.spec.bitfield import Bits, Layout, Reserved

INTERRUPT_IDENTIFIER: Final = 0xFEE
"""Address bits 31:20 of every interrupt request."""


class DeliveryMode(enum.IntEnum):
    """How an interrupt is handled where it arrives (message data bits 10:8, IRTE bits 7:5)."""

    FIXED = 0b000
    """To all processors that the destination names."""
    LOWEST_PRIORITY = 0b001
    """To one of the processors that the destination names."""
    SMI = 0b010
    """System management interrupt; the vector is zero."""
    NMI = 0b100
    """Non-maskable interrupt; the vector is ignored."""
    INIT = 0b101
    """INIT; the vector is ignored."""
    EXTINT = 0b111
    """From an 8259A-compatible controller, which supplies the vector."""


# fmt: off
class CompatibilityAddress(Layout, bits=32):
    """Low half of a compatibility-format address (figure 5-1)."""

    identifier        = Bits(31, 20)  # FEEh
    destination_id    = Bits(19, 12)  # APIC ID 7:0
    reserved          = Reserved((11, 5))  # KVM and Hyper-V put APIC ID 14:8 here: virt_destid_8_14
    interrupt_format  = Bits(4)       # 0
    redirection_hint  = Bits(3)       # RH
    destination_mode  = Bits(2)       # DM: 1 is logical
    ignored           = Bits(1, 0)    # don't care


class CompatibilityData(Layout, bits=32):
    """Data of a compatibility-format message (figure 5-1)."""

    reserved           = Reserved((31, 16), (13, 11))
    trigger_mode       = Bits(15)     # TM: 1 is level
    trigger_mode_level = Bits(14)     # 1 is assert
    delivery_mode      = Bits(10, 8)  # DLM, see DeliveryMode
    vector             = Bits(7, 0)


class RemappableAddress(Layout, bits=32):
    """Low half of a remappable-format address (figure 5-2, table 13)."""

    identifier       = Bits(31, 20)   # FEEh
    handle_14_0      = Bits(19, 5)    # HANDLE[14:0]
    interrupt_format = Bits(4)        # 1
    subhandle_valid  = Bits(3)        # SHV
    handle_15        = Bits(2)        # HANDLE[15]
    ignored          = Bits(1, 0)     # don't care


class RemappableData(Layout, bits=32):
    """Data of a remappable-format message (table 14); ignored as a whole while SHV is clear."""

    reserved  = Reserved((31, 16))
    subhandle = Bits(15, 0)           # SUBHANDLE


class VectorControl(Layout, bits=32):
    """Vector Control dword of an MSI-X table entry (PCI Express, section 7.7.2.8)."""

    steering_tag = Bits(31, 16)       # ST Upper, ST Lower
    reserved     = Reserved((15, 1))
    mask         = Bits(0)            # Mask Bit; 1 after reset
# fmt: on


@dataclass(frozen=True, slots=True)
class RemappableMessage:
    """What a remappable-format message says: which IRTE to look at, nothing else."""

    handle: int
    subhandle: int | None = None
    """None while SHV is clear: then the data is ignored."""
    reserved: int = 0
    """Bits that hardware requires to be 0: address bits 63:32, and data bits 31:16 under SHV."""

    @property
    def index(self) -> int:
        """Return ``interrupt_index`` (section 5.1.3): up to 17 bits, so it can exceed any table."""
        return self.handle + (self.subhandle or 0)

    def message(self) -> Message:
        """Return the address and data that say this."""
        address = RemappableAddress(
            identifier=INTERRUPT_IDENTIFIER,
            handle_14_0=self.handle & 0x7FFF,
            interrupt_format=1,
            subhandle_valid=self.subhandle is not None,
            handle_15=self.handle >> 15,
        )
        return Message(address.value, RemappableData(subhandle=self.subhandle or 0).value)


@dataclass(frozen=True, slots=True)
class CompatibilityMessage:
    """What a compatibility-format message says: processor and vector."""

    destination: int
    """APIC id, or logical destination if ``logical``."""
    vector: int
    delivery_mode: int = DeliveryMode.FIXED
    logical: bool = False
    redirection_hint: bool = False
    level: bool = False
    reserved: int = 0
    """Reserved bits of the address's low half (in place), of the data, and address bits 63:32."""

    def message(self) -> Message:
        """Return the address and data that say this."""
        address = CompatibilityAddress(
            identifier=INTERRUPT_IDENTIFIER,
            destination_id=self.destination,
            redirection_hint=self.redirection_hint,
            destination_mode=self.logical,
        )
        data = CompatibilityData(
            trigger_mode=self.level,
            trigger_mode_level=self.level,
            delivery_mode=self.delivery_mode,
            vector=self.vector,
        )
        return Message(address.value, data.value)


@dataclass(frozen=True, slots=True)
class Message:
    """An address/data pair: 64-bit address, 32-bit data (of which MSI holds 16 bits)."""

    address: int
    data: int
    pasid: int | None = None
    """What it is tagged with (PCI Express 6.0, 6.20, "PASID TLP Prefix"); of IMS alone."""

    @property
    def is_null(self) -> bool:
        """Whether this is the null message, which no store may send."""
        return not self.address and not self.data

    @property
    def is_interrupt(self) -> bool:
        """Whether a write of it is an interrupt request: address FEEx_xxxxh, below 4 GiB."""
        return self.address >> 20 == INTERRUPT_IDENTIFIER

    def decode(self) -> RemappableMessage | CompatibilityMessage:
        """Return what the message says, by its Interrupt Format bit.

        Address bits 63:32 are shown as reserved and change nothing else.

        :raises ValueError: the low half of the address is not FEEx_xxxxh.
        """
        low, high = self.address & 0xFFFF_FFFF, self.address >> 32
        if low >> 20 != INTERRUPT_IDENTIFIER:
            raise ValueError(f"{self} is not an interrupt message")
        remappable = RemappableAddress.unpack(low)
        if remappable.interrupt_format:
            handle = remappable.handle_15 << 15 | remappable.handle_14_0
            if not remappable.subhandle_valid:
                return RemappableMessage(handle, None, high)
            data = RemappableData.unpack(self.data)
            return RemappableMessage(handle, data.subhandle, high | data.reserved)
        address = CompatibilityAddress.unpack(low)
        fields = CompatibilityData.unpack(self.data)
        return CompatibilityMessage(
            destination=address.destination_id,
            vector=fields.vector,
            delivery_mode=fields.delivery_mode,
            logical=bool(address.destination_mode),
            redirection_hint=bool(address.redirection_hint),
            level=bool(fields.trigger_mode),
            reserved=high | address.reserved | fields.reserved,
        )

    def __str__(self) -> str:
        return f"{self.address:#010x}/{self.data:#06x}"


NULL_MESSAGE: Final = Message(0, 0)


@dataclass(frozen=True, slots=True)
class MessageEntry:
    """One entry of an MSI-X table, or of an IMS array of the same shape: 16 bytes."""

    address: int
    data: int
    control: VectorControl

    FORMAT: ClassVar[struct.Struct] = struct.Struct("<QII")
    SIZE: ClassVar[int] = FORMAT.size

    def pack(self) -> bytes:
        """Return the entry as it stands in the table."""
        return self.FORMAT.pack(self.address, self.data, self.control.value)

    @classmethod
    def unpack(cls, raw: bytes | memoryview) -> Self:
        """Return the entry that stands in 16 bytes."""
        address, data, control = cls.FORMAT.unpack(raw)
        return cls(address, data, VectorControl.unpack(control))


MESSAGE_ENTRY_RESET: Final = MessageEntry(0, 0, VectorControl(mask=1))
"""An entry after reset: masked, with the null message."""
