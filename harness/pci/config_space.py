"""Config space: bytes and write masks. What a bit does is the business of who reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.pci.capabilities import Capability, linked
from harness.spec.pci import (
    BAR_ADDRESS_MASK,
    CAPABILITIES_START,
    CONFIG_SIZE,
    DEVICE_CONTROL,
    CapabilityId,
    Command,
    DeviceControl,
    Header,
    Status,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What the header says that a function is (7.5.1.1)."""

    vendor_id: int
    device_id: int
    subsystem_vendor_id: int
    subsystem_id: int
    class_code: int
    """Base class in 23:16, sub-class in 15:8, programming interface in 7:0."""
    revision: int


class ConfigSpace:
    """The 4096 bytes of a function: a type 0 header and a chain of capabilities.

    Every bit is read-only unless its write mask says otherwise; BAR sizing follows from that: the
    bits below the size stay zero (PCI Express 6.0, 7.5.1.2.1).

    :param bars: BAR to its size in bytes; all are 32-bit, memory, not prefetchable.
    :param capabilities: in the order of the chain.
    :raises ValueError: the capabilities do not fit.
    """

    def __init__(
        self, identity: Identity, bars: Mapping[int, int], capabilities: Sequence[Capability]
    ):
        self._reset = bytearray(CONFIG_SIZE)
        self._writable = bytearray(CONFIG_SIZE)
        self.capabilities = {item.id: item for item in linked(capabilities)}
        """The chain, by capability id."""
        self._build_header(identity, bars)
        for item in self.capabilities.values():
            self._reset[item.offset : item.end] = item.reset
            self._writable[item.offset : item.end] = item.writable
        self._bytes = bytearray(self._reset)

    def _build_header(self, identity: Identity, bars: Mapping[int, int]) -> None:
        command = Command(memory_space=1, bus_master=1, parity_error_response=1, serr_enable=1)
        # fmt: off
        for offset, size, value, writable in (
            (Header.VENDOR_ID,           2, identity.vendor_id, 0),
            (Header.DEVICE_ID,           2, identity.device_id, 0),
            (Header.COMMAND,             2, 0,                                 command.value),
            (Header.STATUS,              2, Status(capabilities_list=1).value, 0),
            (Header.REVISION_ID,         1, identity.revision, 0),
            (Header.CLASS_CODE,          3, identity.class_code, 0),
            (Header.CACHE_LINE_SIZE,     1, 0,                                 0xFF),
            (Header.SUBSYSTEM_VENDOR_ID, 2, identity.subsystem_vendor_id, 0),
            (Header.SUBSYSTEM_ID,        2, identity.subsystem_id, 0),
            (Header.CAPABILITIES,        1, CAPABILITIES_START,                0),
            (Header.INTERRUPT_LINE,      1, 0,                                 0xFF),
        ):
            self._reset[offset : offset + size] = value.to_bytes(size, "little")
            self._writable[offset : offset + size] = writable.to_bytes(size, "little")
        # fmt: on
        for bar, length in bars.items():
            place = Header.BAR0 + 4 * bar
            writable = BAR_ADDRESS_MASK & -length
            self._writable[place : place + 4] = writable.to_bytes(4, "little")

    def reset(self) -> None:
        """Return every register to its value after power-on."""
        self._bytes[:] = self._reset

    def read(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes; the range is inside config space."""
        return bytes(self._bytes[offset : offset + count])

    def write(self, offset: int, data: bytes) -> None:
        """Change the writable bits of a range that is inside config space."""
        for at, byte in enumerate(data, offset):
            mask = self._writable[at]
            self._bytes[at] = self._bytes[at] & ~mask | byte & mask

    def get(self, offset: int, size: int) -> int:
        """Return a register."""
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def set(self, offset: int, size: int, value: int) -> None:
        """Set a register as the function itself does, read-only bits included."""
        self._bytes[offset : offset + size] = value.to_bytes(size, "little")

    def covers(self, capability: CapabilityId, offset: int, count: int) -> bool:
        """Whether the function has this capability and a range touches it."""
        item = self.capabilities.get(capability)
        return item is not None and offset < item.end and offset + count > item.offset

    def initiates_flr(self, offset: int, data: bytes) -> bool:
        """Whether a write asks for a function level reset. The bit itself is never kept."""
        high = self.capabilities[CapabilityId.EXPRESS].offset + DEVICE_CONTROL + 1
        if not offset <= high < offset + len(data):
            return False
        return bool(data[high - offset] << 8 & DeviceControl(initiate_flr=1).value)

    @property
    def bus_master(self) -> bool:
        """Whether the function may send requests of its own: DMA and interrupt messages."""
        return bool(self._bytes[Header.COMMAND] & Command(bus_master=1).value)
