"""A table of interrupt messages: 16-byte entries of address, data and a control dword with a mask.

The MSI-X table and the IMS array are both such tables. This is the memory alone: which bits mean
something, and when, is the stores' business.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final

from harness.spec.msi import MESSAGE_ENTRY_RESET, Message, MessageEntry, VectorControl

ENTRY_SIZE: Final = MessageEntry.SIZE
CONTROL_OFFSET: Final = 12
"""Byte of an entry at which its control dword begins."""
MASK_BIT: Final = VectorControl(mask=1).value

_MESSAGE: Final = struct.Struct("<QI")
_RESET: Final = MESSAGE_ENTRY_RESET.pack()


class MessageTable:
    """``count`` entries in a buffer that the caller owns and may share with a client."""

    def __init__(self, buffer: bytearray | mmap.mmap, count: int):
        self.count = count
        self._buffer = buffer
        self.reset()

    def reset(self) -> None:
        """Mask every entry and put the null message into it."""
        self._buffer[: self.count * ENTRY_SIZE] = _RESET * self.count

    def allows(self, offset: int, count: int) -> bool:
        """Whether an access is a whole aligned dword or quadword of an entry that is there.

        The rule of the MSI-X table: PCI Express 6.0, 7.7.2, "access granularity".
        """
        return count in (4, 8) and offset % count == 0 and offset + count <= self.count * ENTRY_SIZE

    def read(self, offset: int, count: int) -> bytes:
        """Return the bytes of an access that :meth:`allows` lets through."""
        return bytes(self._buffer[offset : offset + count])

    def write(self, offset: int, data: bytes) -> None:
        """Change the bytes of an access that :meth:`allows` lets through."""
        self._buffer[offset : offset + len(data)] = data

    def message(self, index: int) -> Message:
        """Return the message that stands in an entry."""
        return Message(*_MESSAGE.unpack_from(self._buffer, index * ENTRY_SIZE))

    def control(self, index: int) -> int:
        """Return the control dword of an entry."""
        at = index * ENTRY_SIZE + CONTROL_OFFSET
        return int.from_bytes(self._buffer[at : at + 4], "little")

    def mask_bit(self, index: int) -> bool:
        """Whether an entry's own mask bit is set."""
        return bool(self._buffer[index * ENTRY_SIZE + CONTROL_OFFSET] & MASK_BIT)
