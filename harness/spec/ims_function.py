# Ref: docs/device.md, "The IMS function", register map version 1.0. This file is its
#      layout; guests/module/imstest_regs.h mirrors it, tests/unit/test_spec_ims_function.py holds
#      the two together.
"""Registers, tables and descriptors of the IMS function."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from harness.spec.bitfield import Bits, Layout, Reserved
from harness.spec.interrupt import Store

VENDOR_ID: Final = 0x494D
"""PCI vendor id, "IM": a number that the public PCI id list does not assign."""
DEVICE_ID: Final = 0x0001
"""PCI device id of the function."""
CLASS_CODE: Final = 0x088000
"""System peripheral, other."""
REVISION: Final = 0x01

BAR_CONTROL: Final = 0
"""BAR of the control registers: 64 KiB, always trapped."""
BAR_MSIX: Final = 2
"""BAR of the MSI-X table and PBA: 64 KiB."""
BAR_IMS: Final = 4
"""BAR of the IMS array: 32 KiB, trapped or mapped."""

BAR_MSIX_WINDOW: Final = 5
"""BAR of the MSI-X table of the new scheme, where there is one: 32 KiB, mapped."""

BAR_CONTROL_SIZE: Final = 0x10000
BAR_MSIX_SIZE: Final = 0x10000
BAR_IMS_SIZE: Final = 0x8000

MSI_MAX: Final = 32
MSIX_MAX: Final = 2048
MSIX_DEFAULT: Final = 9
IMS_ENTRIES: Final = 2048
MSIX_TABLE_OFFSET: Final = 0x0000
MSIX_PBA_OFFSET: Final = 0x8000

ID_VALUE: Final = 0x00534D49
"""Contents of the ID register: ``"IMS\\0"``."""
VERSION_VALUE: Final = 0x00010000
"""Contents of the VERSION register: major in the high half, minor in the low."""


# fmt: off
class Register(enum.IntEnum):
    """Offsets in the control BAR."""

    ID              = 0x0000
    """RO u32: ``ID_VALUE``."""
    VERSION         = 0x0004
    """RO u32: ``VERSION_VALUE``."""
    IMS_CAPABILITY  = 0x0008
    """RO u32: :class:`ImsCapability`."""
    STATUS          = 0x000C
    """RO u32: :class:`Status`."""
    CONTROL         = 0x0010
    """RW u32: :class:`Control`."""
    WQ_SIZE         = 0x0014
    """RW u32: entries in the ring, a power of two up to WQ_SIZE_MAX. Writable while disabled."""
    WQ_BASE_LO      = 0x0018
    """RW u32: I/O virtual address of the ring, low half; 64-byte aligned. As WQ_SIZE."""
    WQ_BASE_HI      = 0x001C
    """RW u32: high half."""
    WQ_TAIL         = 0x0020
    """RW u32: the doorbell: free-running count of the descriptors the guest has written."""
    WQ_HEAD         = 0x0024
    """RO u32: free-running count of the descriptors the device has consumed."""
    REFUSED         = 0x0028
    """RO u32: guest accesses that were not as this map allows, since reset."""
    UNANSWERED      = 0x002C
    """RO u32: events handed out and not yet answered."""
    IMS_PENDING     = 0x0100
    """RO u32[64]: bit n of word n/32 is set while IMS entry n is pending."""
    EVENT_MSI       = 0x4000
    """u64[32]: event slots of the MSI messages, see :class:`EventSlot`."""
    EVENT_MSIX      = 0x8000
    """u64[2048]: event slots of the MSI-X vectors."""
    EVENT_IMS       = 0xC000
    """u64[2048]: event slots of the IMS entries."""
# fmt: on


WQ_SIZE_MAX: Final = 1024


# fmt: off
class ImsControl(Layout, bits=32):
    """Control dword of an IMS entry."""

    pasid       = Bits(31, 12)
    reserved    = Reserved((11, 4), (2, 1))
    pasid_valid = Bits(3)      # the message is tagged with ``pasid``
    mask        = Bits(0)      # 1 after reset
# fmt: on


IMS_PENDING_SIZE: Final = 0x100
EVENT_SLOT_SIZE: Final = 8
EVENT_BANKS: Final = {
    Store.MSI: (Register.EVENT_MSI, MSI_MAX),
    Store.MSIX: (Register.EVENT_MSIX, MSIX_MAX),
    Store.IMS: (Register.EVENT_IMS, IMS_ENTRIES),
}
"""Store to (offset of its bank of event slots, number of slots)."""


# fmt: off
class ImsCapability(Layout, bits=32):
    """IMS_CAPABILITY register."""

    entries  = Bits(15, 0)   # number of entries in the IMS array
    mapped   = Bits(16)      # the array may be mapped: stores to it are not seen as accesses
    reserved = Reserved((31, 17))


class Control(Layout, bits=32):
    """CONTROL register."""

    wq_enable = Bits(0)      # the work queue takes descriptors
    reset     = Bits(1)      # write 1: reset the function's own state (not config space); reads 0
    reserved  = Reserved((31, 2))


class Status(Layout, bits=32):
    """STATUS register."""

    wq_active = Bits(0)      # enabled and sound, or still at work on a descriptor after a disable
    wq_error  = Bits(1)      # the queue stopped; cleared by disabling
    reserved  = Reserved((31, 2))


class EventSlot(Layout, bits=64):
    """One event slot.

    Reading the low dword gives the sequence number of the oldest unanswered event on this
    interrupt, 0 when there is none. The handler answers with one 8-byte write.
    """

    sequence = Bits(31, 0)   # the event's sequence number, never 0
    cpu      = Bits(63, 32)  # Linux CPU number on which the handler ran (answer only)
# fmt: on


class Opcode(enum.IntEnum):
    """What a work descriptor asks for."""

    NOP = 0
    """Complete, nothing else."""
    INTERRUPT = 1
    """Complete and raise the interrupt that the descriptor names."""


class CompletionStatus(enum.IntEnum):
    """How a descriptor ended."""

    PENDING = 0
    """Not written by the device: what a guest puts there before it submits."""
    SUCCESS = 1
    """Done; the interrupt, if one was asked for, was raised or is pending behind a mask."""
    BAD_OPCODE = 2
    """The opcode is not defined."""
    BAD_HANDLE = 3
    """The store or index names no interrupt that this function has."""
    BAD_RESERVED = 4
    """A reserved field is not zero."""
    BLOCKED = 5
    """The interrupt message was refused by interrupt remapping, or the source id did not match."""
    DISABLED = 6
    """The store that the handle names is not enabled (MSI or MSI-X off)."""


@dataclass(frozen=True, slots=True)
class WorkDescriptor:
    """A descriptor in the ring: 32 bytes."""

    opcode: int
    store: int = Store.NONE
    index: int = 0
    cookie: int = 0
    completion: int = 0
    """I/O virtual address of the completion record; 0: none is wanted."""
    flags: int = 0
    """Reserved, zero."""
    reserved: int = 0

    # opcode u8, flags u8, store u16, index u32, cookie u64, completion u64, reserved u64
    FORMAT: ClassVar[struct.Struct] = struct.Struct("<BBHIQQQ")
    SIZE: ClassVar[int] = FORMAT.size

    def pack(self) -> bytes:
        """Return the descriptor as it stands in the ring."""
        return self.FORMAT.pack(
            self.opcode,
            self.flags,
            self.store,
            self.index,
            self.cookie,
            self.completion,
            self.reserved,
        )

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Return the descriptor that stands in 32 bytes."""
        opcode, flags, store, index, cookie, completion, reserved = cls.FORMAT.unpack(raw)
        return cls(opcode, store, index, cookie, completion, flags, reserved)


@dataclass(frozen=True, slots=True)
class CompletionRecord:
    """What the device writes when a descriptor is done: 16 bytes, status last in time."""

    status: int
    sequence: int
    """Sequence number of the event that was raised, 0 when none was."""
    cookie: int

    FORMAT: ClassVar[struct.Struct] = struct.Struct("<IIQ")
    SIZE: ClassVar[int] = FORMAT.size

    def pack(self) -> bytes:
        """Return the record as it stands in guest memory."""
        return self.FORMAT.pack(self.status, self.sequence, self.cookie)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Return the record that stands in 16 bytes."""
        return cls(*cls.FORMAT.unpack(raw))
