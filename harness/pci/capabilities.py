"""PCI capabilities, built as bytes and write masks, and linked into a chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.spec.pci import (
    CAPABILITIES_END,
    CAPABILITIES_START,
    CAPABILITY_HEADER_SIZE,
    EXPRESS_CAPABILITY_SIZE,
    MSIX_CAPABILITY_SIZE,
    CapabilityId,
    DeviceControl,
    MsiControl,
    MsixControl,
    MsixLocation,
    msi_offsets,
)


@dataclass(frozen=True, slots=True)
class Capability:
    """A capability: its bytes after power-on from the id on, and which bits a guest may write."""

    id: CapabilityId
    reset: bytes
    writable: bytes
    offset: int = 0
    """Where it stands in config space; 0 before it is placed."""

    @property
    def end(self) -> int:
        """First byte behind it in config space."""
        return self.offset + len(self.reset)


class _Body:
    # Collects registers by offset; what is not placed stays zero and read-only.
    def __init__(self, id: CapabilityId, size: int):
        self.id = id
        self.reset = bytearray(size)
        self.writable = bytearray(size)

    def place(self, offset: int, size: int, value: int, writable: int = 0) -> None:
        self.reset[offset : offset + size] = value.to_bytes(size, "little")
        self.writable[offset : offset + size] = writable.to_bytes(size, "little")

    def done(self) -> Capability:
        return Capability(self.id, bytes(self.reset), bytes(self.writable))


def msi(vectors: int, *, address_64bit: bool, per_vector_mask: bool) -> Capability:
    """Return MSI (7.7.1).

    :param vectors: messages that the function can use, a power of two up to 32.
    """
    registers = msi_offsets(address_64bit=address_64bit, per_vector_mask=per_vector_mask)
    end = max(offset + size for offset, size in registers.values())
    body = _Body(CapabilityId.MSI, end)
    control = MsiControl(
        multiple_message_capable=vectors.bit_length() - 1,
        address_64bit=address_64bit,
        per_vector_mask=per_vector_mask,
    )
    writable = {
        "control": MsiControl(enable=1, multiple_message_enable=7).value,
        "address_low": 0xFFFFFFFC,
        "address_high": 0xFFFFFFFF,
        "data": 0xFFFF,
        "mask": (1 << vectors) - 1,
        "pending": 0,
    }
    for name, (offset, size) in registers.items():
        body.place(offset, size, control.value if name == "control" else 0, writable[name])
    return body.done()


def msix(vectors: int, *, bar: int, table_offset: int, pba_offset: int) -> Capability:
    """Return MSI-X with table and PBA in one BAR, at multiples of 8 (7.7.2)."""
    body = _Body(CapabilityId.MSIX, MSIX_CAPABILITY_SIZE)
    writable = MsixControl(function_mask=1, enable=1).value
    body.place(2, 2, MsixControl(table_size=vectors - 1).value, writable)
    for at, offset in ((4, table_offset), (8, pba_offset)):
        body.place(at, 4, MsixLocation(bar_index=bar, offset=offset >> 3).value)
    return body.done()


def msix_window(vectors: int, *, bar: int, pba_bar: int, pba_offset: int) -> Capability:
    """Return what is laid out as MSI-X and begins as a vendor's capability of 12 bytes (7.9.4)."""
    body = _Body(CapabilityId.VENDOR, MSIX_CAPABILITY_SIZE)
    body.place(2, 2, MSIX_CAPABILITY_SIZE, MsixControl(function_mask=1, enable=1).value)
    body.place(4, 4, MsixLocation(bar_index=bar).value)
    body.place(8, 4, MsixLocation(bar_index=pba_bar, offset=pba_offset >> 3).value)
    return body.done()


def express() -> Capability:
    """Return the capability of a PCI Express endpoint with function level reset (7.5.3)."""
    body = _Body(CapabilityId.EXPRESS, EXPRESS_CAPABILITY_SIZE)
    body.place(0x02, 2, 0x0002)  # version 2, endpoint, no interrupt message number
    body.place(0x04, 4, 1 << 15 | 1 << 28)  # role-based error reporting, FLR
    defaults = DeviceControl(relaxed_ordering=1, no_snoop=1, max_read_request_size=2)
    # Initiate FLR reads 0: the write is seen by the function, the bit is never kept.
    writable = DeviceControl(
        correctable_reporting=1,
        non_fatal_reporting=1,
        fatal_reporting=1,
        unsupported_reporting=1,
        relaxed_ordering=1,
        max_payload_size=7,
        no_snoop=1,
        max_read_request_size=7,
    )
    body.place(0x08, 2, defaults.value, writable.value)
    body.place(0x0C, 4, 0x0011)  # link: 2.5 GT/s, one lane
    body.place(0x10, 2, 0, writable=0x00C0)  # common clock, extended synch
    body.place(0x12, 2, 0x0011)  # the link as trained
    body.place(0x2C, 4, 0x0002)  # supported link speeds: 2.5 GT/s
    return body.done()


def linked(chain: Sequence[Capability]) -> list[Capability]:
    """Return capabilities placed behind the header and linked in order.

    :raises ValueError: they do not fit below the extended capabilities.
    """
    placed: list[Capability] = []
    offset = CAPABILITIES_START
    for number, capability in enumerate(chain, 1):
        after = offset + len(capability.reset) + 3 & ~3
        if after > CAPABILITIES_END:
            raise ValueError(f"capabilities end at {after:#x}, behind {CAPABILITIES_END:#x}")
        following = after if number < len(chain) else 0
        reset = bytes([capability.id, following]) + capability.reset[CAPABILITY_HEADER_SIZE:]
        placed.append(replace(capability, reset=reset, offset=offset))
        offset = after
    return placed
