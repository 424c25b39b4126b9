# Ref: docs/virte.md, "The vIRTE call", version 1.0. This file is its layout;
#      guests/module/virte_regs.h mirrors it, tests/unit/test_spec_hypercall.py holds the two
#      together.
"""The vIRTE call: registers of the function, call frames, operations, statuses."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from harness.spec.bitfield import Bits, Layout, Reserved

VENDOR_ID: Final = 0x494D
"""PCI vendor id, as the IMS function's."""
DEVICE_ID: Final = 0x0002
"""PCI device id of the function that carries the call."""
CLASS_CODE: Final = 0x088000
"""System peripheral, other."""
REVISION: Final = 0x01

BAR_REGISTERS: Final = 0
"""BAR of the registers: 64 KiB, always trapped."""
BAR_FRAMES: Final = 2
"""BAR of the call frames: 128 KiB, trapped or mapped."""
BAR_DOORBELLS: Final = 4
"""BAR of the doorbell pages that messages are addressed to: 512 KiB, always trapped."""

BAR_REGISTERS_SIZE: Final = 0x10000
BAR_FRAMES_SIZE: Final = 0x20000
BAR_DOORBELLS_SIZE: Final = 0x80000

FRAMES: Final = 16
FRAME_SIZE: Final = 0x2000
FRAME_ENTRIES: Final = 64
"""Entries that one call can carry."""

DOORBELL_PAGE_SIZE: Final = 0x1000
DOORBELL_PAGES: Final = BAR_DOORBELLS_SIZE // DOORBELL_PAGE_SIZE

ID_VALUE: Final = 0x54524956
"""Contents of the ID register: ``"VIRT"``."""
VERSION_1_0: Final = 0x00010000
"""Major in the high half, minor in the low."""

BLOCK_MAX: Final = 32
"""Messages of one MSI capability, and so handles of one block."""
VECTOR_MIN: Final = 16
"""Lowest vector that a message can carry; the processor keeps those below (SDM 11.5.2)."""


# fmt: off
class Register(enum.IntEnum):
    """Offsets in the register BAR."""

    ID       = 0x0000
    """RO u32: ``ID_VALUE``."""
    VERSION  = 0x0004
    """RO u32: the highest version that the hypervisor knows."""
    FEATURES = 0x0008
    """RO u32: :class:`Feature` bits on offer."""
    FRAMES   = 0x000C
    """RO u32: :class:`Frames`."""
    STATUS   = 0x0010
    """RO u32: :class:`Status`."""
    QUOTA    = 0x0014
    """RO u32: handles that this guest may hold at a time."""
    LIVE     = 0x0018
    """RO u32: handles that it holds."""
    REFUSED  = 0x001C
    """RO u32: accesses that were not as this map allows, since reset."""
    CALL     = 0x1000
    """RO u32[16]: reading dword n carries out the call in frame n and gives its status."""


class Frames(Layout, bits=32):
    """FRAMES register."""

    count    = Bits(7, 0)     # frames in the frame BAR
    entries  = Bits(15, 8)    # entries that a frame holds
    size     = Bits(31, 16)   # bytes from one frame to the next


class Status(Layout, bits=32):
    """STATUS register, and the notices in every answer."""

    negotiated = Bits(0)      # the new scheme is in force
    quenched   = Bits(1)      # at least one live handle of this guest is quenched
    landing    = Bits(2)      # messages are on their way by routes that were taken away
    reserved   = Reserved((31, 3))
# fmt: on


class Feature(enum.IntFlag):
    """What can be negotiated."""

    MSI = 1 << 0
    MSIX = 1 << 1
    IMS = 1 << 2
    PASID = 1 << 3
    """Entries may be bound to a PASID."""
    QUENCH = 1 << 4
    """The hypervisor may quench a handle, and QUERY and REVIVE tell and undo it."""


class Operation(enum.IntEnum):
    """What a call does."""

    NEGOTIATE = 1
    """Give back every handle, and switch to the new scheme."""
    RELEASE = 2
    """Give back every handle, and return to the old scheme."""
    MAP = 3
    """Compose the message of an interrupt."""
    RETARGET = 4
    """Change where a handle's interrupt goes; its message stays."""
    UNMAP = 5
    """Give a handle back."""
    QUERY = 6
    """Tell a handle's state and counters."""
    REVIVE = 7
    """End the quenching of a handle."""


class CallStatus(enum.IntEnum):
    """How a call, or one entry of it, ended."""

    OK = 0
    BUSY = 1
    """Nothing has changed: call again, not before the time in ``retry_us``."""
    NO_HANDLES = 2
    """The host has no interrupt left, or the guest has used up its quota."""
    DENIED = 3
    """The hypervisor does not want to: policy, or a device that is not this guest's."""
    UNSUPPORTED = 4
    """Operation, version, feature or target that the hypervisor does not have."""
    INVALID = 5
    """The request breaks a rule of the specification."""
    NO_SUCH_HANDLE = 6
    """Never given out, given back, or another guest's: the three look the same."""
    NOT_NEGOTIATED = 7
    """The old scheme is in force."""
    FAILED = 8
    """The host could not set its halves up, or failed inside; nothing of it is left."""
    NOT_ATTEMPTED = 9
    """Of an entry only: an earlier one of the call failed."""


class EntryFlag(enum.IntFlag):
    """Flags of a request's entry."""

    PASID = 1 << 0
    """``pasid`` is valid: only messages tagged with it are delivered."""
    LOGICAL = 1 << 1
    """``destination`` is a logical destination, otherwise an APIC id."""
    REDIRECTION_HINT = 1 << 2
    PARKED = 1 << 3
    """There is no route (yet): messages are blocked until RETARGET gives one."""


class HandleState(enum.IntFlag):
    """State bits in an answer's entry."""

    PARKED = 1 << 0
    QUENCHED = 1 << 1


@dataclass(frozen=True, slots=True)
class CallRequest:
    """First 32 bytes of a frame: what the guest asks."""

    operation: int
    count: int = 0
    """Entries that follow."""
    flags: int = 0
    """Reserved, zero."""
    version: int = 0
    """NEGOTIATE: the version that the guest speaks."""
    features: int = 0
    """NEGOTIATE: :class:`Feature` bits that it wants."""
    reserved: bytes = bytes(16)

    # operation u16, count u16, flags u32, version u32, features u32, reserved
    FORMAT: ClassVar[struct.Struct] = struct.Struct("<HHIII16s")
    SIZE: ClassVar[int] = FORMAT.size

    def pack(self) -> bytes:
        """Return the 32 bytes."""
        return self.FORMAT.pack(
            self.operation, self.count, self.flags, self.version, self.features, self.reserved
        )

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Return the request that stands in 32 bytes; any bytes are one."""
        return cls(*cls.FORMAT.unpack(raw))


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """The next 32 bytes of a frame: what the hypervisor answers."""

    status: int
    done: int = 0
    """Leading entries that ended with OK."""
    retry_us: int = 0
    """BUSY: microseconds before which there is no use in calling again."""
    notices: int = 0
    """As the STATUS register."""
    version: int = 0
    """NEGOTIATE: the version granted."""
    features: int = 0
    """NEGOTIATE: the features granted."""

    # status u32, done u32, retry_us u32, notices u32, version u32, features u32, reserved u64
    FORMAT: ClassVar[struct.Struct] = struct.Struct("<IIIIII8x")
    SIZE: ClassVar[int] = FORMAT.size

    def pack(self) -> bytes:
        """Return the 32 bytes."""
        return self.FORMAT.pack(
            self.status, self.done, self.retry_us, self.notices, self.version, self.features
        )

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Return the answer that stands in 32 bytes."""
        return cls(*cls.FORMAT.unpack(raw))


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRequest:
    """First 32 bytes of an entry. A field that an operation does not use is zero."""

    store: int = 0
    """MAP: :class:`harness.spec.interrupt.Store`."""
    flags: int = 0
    """:class:`EntryFlag`."""
    requester: int = 0
    """MAP: requester id (bus 15:8, device 7:3, function 2:0)."""
    count: int = 0
    """MAP, UNMAP: handles of the block: a power of two up to 32 for MSI, else 1."""
    least: int = 0
    """MAP: the smallest block to be content with; 0: all of ``count``."""
    index: int = 0
    """MAP: index in the store; of a block, the first."""
    pasid: int = 0
    """MAP: the PASID, 20 bits."""
    destination: int = 0
    """MAP, RETARGET: APIC id or logical destination."""
    vector: int = 0
    """MAP, RETARGET."""
    delivery_mode: int = 0
    """MAP, RETARGET: :class:`harness.spec.msi.DeliveryMode`."""
    segment: int = 0
    """MAP: PCI segment."""
    handle: int = 0
    """RETARGET, UNMAP, QUERY, REVIVE."""
    reserved: int = 0

    # store u8, flags u8, requester u16, count u16, least u16, index u32, pasid u32,
    # destination u32, vector u8, delivery_mode u8, segment u16, handle u32, reserved u32
    FORMAT: ClassVar[struct.Struct] = struct.Struct("<BBHHHIIIBBHII")
    SIZE: ClassVar[int] = FORMAT.size

    def pack(self) -> bytes:
        """Return the 32 bytes."""
        return self.FORMAT.pack(*(getattr(self, name) for name in self.__slots__))

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Return the entry that stands in 32 bytes; any bytes are one."""
        return cls(**dict(zip(cls.__slots__, cls.FORMAT.unpack(raw), strict=True)))


@dataclass(frozen=True, slots=True)
class EntryAnswer:
    """The other 32 bytes of an entry. With a status that is not OK the message is null."""

    status: int
    handle: int = 0
    address: int = 0
    data: int = 0
    granted: int = 0
    """MAP: handles of the block that was granted."""
    state: int = 0
    """QUERY: :class:`HandleState`."""
    delivered: int = 0
    """QUERY: messages delivered; 32 bits that wrap."""
    blocked: int = 0
    """QUERY: messages blocked while the handle was live; 32 bits that wrap."""

    # status u32, handle u32, address u64, data u32, granted u16, state u16, delivered u32,
    # blocked u32
    FORMAT: ClassVar[struct.Struct] = struct.Struct("<IIQIHHII")
    SIZE: ClassVar[int] = FORMAT.size

    def pack(self) -> bytes:
        """Return the 32 bytes."""
        return self.FORMAT.pack(*(getattr(self, name) for name in self.__slots__))

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Return the answer that stands in 32 bytes."""
        return cls(*cls.FORMAT.unpack(raw))


HEADER_SIZE: Final = CallRequest.SIZE + CallAnswer.SIZE
ENTRY_SIZE: Final = EntryRequest.SIZE + EntryAnswer.SIZE


def entry_offset(number: int) -> int:
    """Return where entry ``number`` begins in its frame."""
    return HEADER_SIZE + number * ENTRY_SIZE


assert entry_offset(FRAME_ENTRIES) <= FRAME_SIZE
assert FRAMES * FRAME_SIZE == BAR_FRAMES_SIZE
