# Ref: QEMU docs/interop/vfio-user.rst, "vfio-user Protocol Specification" (QEMU 11.1);
#      Linux include/uapi/linux/vfio.h (v6.12) for the structures it borrows.
"""The vfio-user codec: messages, payloads and capabilities. Pure.

The protocol is in the byte order of the host it never leaves; every host of this harness is
little-endian.
"""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

from harness.errors import ProtocolError
from harness.spec.vfio import (
    MESSAGE_TYPE_MASK,
    Command,
    MessageFlags,
    RegionCapability,
)
from harness.vfio_user.device import MappableArea

HEADER: Final = struct.Struct("<HHIII")
"""id u16, command u16, size of the whole message u32, flags u32, error u32."""

MAJOR: Final = 0
MINOR: Final = 0
"""Version spoken here: 0.0, the only one there is."""

MAX_DATA: Final = 1 << 20
"""Bytes of data in one message that we take, and the default of a peer that names no other."""

MAX_MESSAGE: Final = MAX_DATA + 4096
"""Bytes of the largest message that we take: data and room for any payload head."""

_REPLY: Final = int(MessageFlags.REPLY)
_NO_REPLY: Final = int(MessageFlags.NO_REPLY)
_ERROR: Final = int(MessageFlags.ERROR)


@dataclass(slots=True)
class WireMessage:
    """One message. Its receiver owns ``fds``: take them out of the list, or close them.

    Not frozen, as one is made for every access of a guest and freezing it takes three times as
    long; nothing changes one, all the same, but for taking the descriptors.
    """

    id: int
    command: int
    flags: int = 0
    payload: bytes = b""
    error: int = 0
    fds: list[int] = field(default_factory=list)
    fds_lost: bool = False
    """More file descriptors were sent than arrived (SCM_RIGHTS was truncated)."""
    left_out: int = 0
    """Bytes of the payload that are not kept here; see :mod:`harness.vfio_user.transcript`."""

    def pack(self) -> bytes:
        """Return the message as it goes over the socket, without its file descriptors."""
        size = HEADER.size + len(self.payload)
        return HEADER.pack(self.id, self.command, size, self.flags, self.error) + self.payload

    @property
    def is_reply(self) -> bool:
        """Whether this answers a command."""
        return self.flags & MESSAGE_TYPE_MASK == _REPLY

    @property
    def wants_reply(self) -> bool:
        """Whether the sender of this command waits for an answer."""
        return not self.flags & _NO_REPLY

    def reply(self, payload: bytes = b"", fds: Sequence[int] = ()) -> WireMessage:
        """Return the answer to this command."""
        return WireMessage(self.id, self.command, _REPLY, payload, 0, list(fds))

    def error_reply(self, number: int) -> WireMessage:
        """Return the answer that this command failed; ``number`` is an errno."""
        return WireMessage(self.id, self.command, _REPLY | _ERROR, b"", number)

    def close_fds(self) -> None:
        """Close the file descriptors that nobody has taken."""
        while self.fds:
            os.close(self.fds.pop())


class Payload:
    """Base of the fixed part of a payload: a frozen dataclass whose fields stand in wire order."""

    __slots__: ClassVar[tuple[str, ...]] = ()
    FORMAT: ClassVar[struct.Struct]

    def pack(self) -> bytes:
        """Return the payload as it goes over the socket."""
        return self.FORMAT.pack(*(getattr(self, name) for name in self.__slots__))

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Return what stands in a payload of exactly this size.

        :raises ProtocolError: it has another size.
        """
        if len(raw) != cls.FORMAT.size:
            raise ProtocolError(f"{cls.__name__} is {cls.FORMAT.size} bytes, not {len(raw)}")
        return cls(*cls.FORMAT.unpack(raw))

    @classmethod
    def unpack_padded(cls, raw: bytes) -> Self:
        """Return what stands at the start of a payload that holds nothing but zeros behind it.

        :raises ProtocolError: it is too short, or something else follows.
        """
        head, rest = cls.unpack_head(raw)
        if any(rest):
            raise ProtocolError(f"{cls.__name__} with {len(rest)} bytes behind it, not all zero")
        return head

    @classmethod
    def unpack_head(cls, raw: bytes) -> tuple[Self, bytes]:
        """Return what stands at the start of a payload, and the bytes that follow it.

        :raises ProtocolError: it is too short.
        """
        size = cls.FORMAT.size
        if len(raw) < size:
            raise ProtocolError(f"{cls.__name__} is at least {size} bytes, not {len(raw)}")
        return cls(*cls.FORMAT.unpack_from(raw)), raw[size:]


@dataclass(frozen=True, slots=True)
class Version(Payload):
    """VERSION, both ways; capabilities may follow as JSON with a terminating NUL."""

    major: int
    minor: int

    FORMAT: ClassVar[struct.Struct] = struct.Struct("<HH")


@dataclass(frozen=True, slots=True)
class DmaMap(Payload):
    """DMA_MAP; ``offset`` is into the file whose descriptor comes with the message, if one does."""

    argsz: int
    flags: int
    offset: int
    address: int
    size: int

    FORMAT: ClassVar[struct.Struct] = struct.Struct("<IIQQQ")


@dataclass(frozen=True, slots=True)
class DmaUnmap(Payload):
    """DMA_UNMAP, both ways."""

    argsz: int
    flags: int
    address: int
    size: int

    FORMAT: ClassVar[struct.Struct] = struct.Struct("<IIQQ")


@dataclass(frozen=True, slots=True)
class DeviceInfo(Payload):
    """DEVICE_GET_INFO, both ways."""

    argsz: int
    flags: int = 0
    num_regions: int = 0
    num_irqs: int = 0

    FORMAT: ClassVar[struct.Struct] = struct.Struct("<IIII")


@dataclass(frozen=True, slots=True)
class RegionInfo(Payload):
    """DEVICE_GET_REGION_INFO, both ways; capabilities may follow in the reply."""

    argsz: int
    flags: int = 0
    index: int = 0
    cap_offset: int = 0
    size: int = 0
    offset: int = 0

    FORMAT: ClassVar[struct.Struct] = struct.Struct("<IIIIQQ")


@dataclass(frozen=True, slots=True)
class RegionIoFds(Payload):
    """DEVICE_GET_REGION_IO_FDS, both ways; sub-regions may follow in the reply."""

    argsz: int
    flags: int = 0
    index: int = 0
    count: int = 0

    FORMAT: ClassVar[struct.Struct] = struct.Struct("<IIII")


@dataclass(frozen=True, slots=True)
class IrqInfo(Payload):
    """DEVICE_GET_IRQ_INFO, both ways."""

    argsz: int
    flags: int = 0
    index: int = 0
    count: int = 0

    FORMAT: ClassVar[struct.Struct] = struct.Struct("<IIII")


@dataclass(frozen=True, slots=True)
class IrqSet(Payload):
    """DEVICE_SET_IRQS; one byte for each interrupt follows with DATA_BOOL."""

    argsz: int
    flags: int
    index: int
    start: int
    count: int

    FORMAT: ClassVar[struct.Struct] = struct.Struct("<IIIII")


@dataclass(frozen=True, slots=True)
class RegionAccess(Payload):
    """REGION_READ and REGION_WRITE, both ways; data follows where there is any."""

    offset: int
    region: int
    count: int

    FORMAT: ClassVar[struct.Struct] = struct.Struct("<QII")

    def pack(self) -> bytes:
        """Return the payload as it goes over the socket (spelt out: this is the hot one)."""
        return self.FORMAT.pack(self.offset, self.region, self.count)


@dataclass(frozen=True, slots=True)
class DmaAccess(Payload):
    """DMA_READ and DMA_WRITE, both ways; data follows where there is any."""

    address: int
    count: int

    FORMAT: ClassVar[struct.Struct] = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class WriteCount(Payload):
    """REGION_WRITE_MULTI: how many :class:`SingleWrite` follow; in the reply how many were done."""

    count: int

    FORMAT: ClassVar[struct.Struct] = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class SingleWrite(Payload):
    """One write of up to 8 bytes in REGION_WRITE_MULTI; ``data`` always fills its 8 bytes."""

    offset: int
    region: int
    count: int
    data: bytes

    FORMAT: ClassVar[struct.Struct] = struct.Struct("<QII8s")


@dataclass(frozen=True, slots=True)
class CapabilityHeader(Payload):
    """struct vfio_info_cap_header; ``next`` is an offset in the region info, 0 at the end."""

    id: int
    version: int
    next: int

    FORMAT: ClassVar[struct.Struct] = struct.Struct("<HHI")


_SPARSE_HEAD: Final = struct.Struct("<II")  # nr_areas, reserved
_SPARSE_AREA: Final = struct.Struct("<QQ")  # offset, size


def pack_sparse_mmap(areas: Sequence[MappableArea]) -> bytes:
    """Return the sparse mmap capability as the only one of a region info reply."""
    header = CapabilityHeader(RegionCapability.SPARSE_MMAP, 1, 0).pack()
    packed = b"".join(_SPARSE_AREA.pack(area.offset, area.size) for area in areas)
    return header + _SPARSE_HEAD.pack(len(areas), 0) + packed


def unpack_sparse_mmap(reply: bytes, cap_offset: int) -> tuple[MappableArea, ...] | None:
    """Return the areas of the sparse mmap capability in a region info reply, None without one.

    :raises ProtocolError: the capability chain leaves the reply or runs in a circle.
    """
    seen: set[int] = set()
    while cap_offset:
        if cap_offset in seen:
            raise ProtocolError(f"region capabilities run in a circle at {cap_offset}")
        seen.add(cap_offset)
        header, rest = CapabilityHeader.unpack_head(reply[cap_offset:])
        if header.id == RegionCapability.SPARSE_MMAP:
            if len(rest) < _SPARSE_HEAD.size:
                raise ProtocolError("sparse mmap capability is cut short")
            count, _ = _SPARSE_HEAD.unpack_from(rest)
            rest = rest[_SPARSE_HEAD.size :]
            if len(rest) < count * _SPARSE_AREA.size:
                raise ProtocolError(f"sparse mmap capability has no room for {count} areas")
            packed = rest[: count * _SPARSE_AREA.size]
            return tuple(MappableArea(*area) for area in _SPARSE_AREA.iter_unpack(packed))
        cap_offset = header.next
    return None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one side says about itself in VERSION. The defaults hold for one that says nothing."""

    max_msg_fds: int = 1
    """File descriptors that it takes in one message."""
    max_data_xfer_size: int = MAX_DATA
    """Bytes of data that it takes or gives in one message."""
    max_dma_maps: int = 65535
    """DMA ranges that it keeps at a time."""
    pgsizes: int = 4096
    """Page sizes of DMA ranges, or-ed."""
    write_multiple: bool = False
    """Whether it knows REGION_WRITE_MULTI."""
    named: frozenset[str] = frozenset()
    """The names that stood in the message, known here or not."""

    NUMBERS: ClassVar[tuple[str, ...]] = (
        "max_msg_fds",
        "max_data_xfer_size",
        "max_dma_maps",
        "pgsizes",
    )

    def pack(self, names: frozenset[str] | None = None) -> bytes:
        """Return the version data: NUL-terminated JSON of those in ``names`` (None: all)."""
        known = (*self.NUMBERS, "write_multiple")
        chosen = {name: getattr(self, name) for name in known if names is None or name in names}
        return json.dumps({"capabilities": chosen}).encode() + b"\0"

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Return the capabilities in the version data, which may be empty.

        ``migration`` and ``twin_socket`` are known and refused by not being named in the answer;
        unknown names are ignored, as the protocol asks.

        :raises ProtocolError: it is not NUL-terminated JSON of the right types, or a value is
            out of range.
        """
        if not data:
            return cls()
        if data[-1]:
            raise ProtocolError("version data does not end with a NUL", evidence=repr(data[-64:]))
        try:
            document = json.loads(data[:-1])
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"version data is not JSON: {error}") from None
        given = document.get("capabilities", {}) if isinstance(document, dict) else None
        if not isinstance(given, dict):
            raise ProtocolError(f"version data is not an object of objects: {document!r:.200}")
        values: dict[str, Any] = {name: given[name] for name in cls.NUMBERS if name in given}
        for name, value in values.items():
            lowest = 0 if name == "max_msg_fds" else 1
            if type(value) is not int or not lowest <= value < 1 << 64:
                raise ProtocolError(f"capability {name} is {value!r:.200}")
        if "write_multiple" in given:
            values["write_multiple"] = given["write_multiple"]
            if type(values["write_multiple"]) is not bool:
                raise ProtocolError(
                    f"capability write_multiple is {given['write_multiple']!r:.200}"
                )
        return cls(**values, named=frozenset(given))


def command_name(number: int) -> str:
    """Return the protocol's name of a command, its number when it has none."""
    try:
        return Command(number).name
    except ValueError:
        return f"command {number}"


def errno_name(number: int) -> str:
    """Return the name of an errno, its number when it has none."""
    return errno.errorcode.get(number, str(number))
