"""A client's own memory: what the server may reach by messages, and what answers for the rest."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable
from dataclasses import dataclass

from harness.errors import ProtocolError
from harness.spec.vfio import Command, DmaMapFlags
from harness.vfio_user import wire
from harness.vfio_user.wire import WireMessage

DmaRead = Callable[[int, int], bytes]
"""Answers a DMA_READ: address, count."""
DmaWrite = Callable[[int, bytes], None]
"""Answers a DMA_WRITE: address, data."""


@dataclass(frozen=True, slots=True)
class _Range:
    address: int
    memory: bytearray | mmap.mmap
    flags: DmaMapFlags

    def holds(self, address: int, count: int) -> bool:
        return self.address <= address and address + count <= self.address + len(self.memory)


class ClientMemory:
    """The ranges that DMA messages may reach.

    :param dma_read: answers outside of them; an OSError that it raises is the answer.
    :param dma_write: the same for writes.
    """

    def __init__(self, dma_read: DmaRead | None, dma_write: DmaWrite | None):
        self._dma_read = dma_read
        self._dma_write = dma_write
        self._ranges: list[_Range] = []

    def add(self, address: int, memory: bytearray | mmap.mmap, flags: DmaMapFlags) -> None:
        """Answer for a range with memory that stays the caller's."""
        self._ranges.append(_Range(address, memory, flags))

    def remove(self, address: int, size: int) -> None:
        """Answer no more for the ranges that begin in this one."""
        end = address + size
        self._ranges = [held for held in self._ranges if not address <= held.address < end]

    def clear(self) -> None:
        """Answer for no range any more."""
        self._ranges = []

    def answer(self, message: WireMessage) -> bytes:
        """Carry a DMA message out and return the payload of its reply.

        :raises OSError: the errno to reply with.
        :raises ProtocolError: the message contradicts itself.
        """
        if message.command not in (Command.DMA_READ, Command.DMA_WRITE):
            raise OSError(errno.ENOTSUP, f"{wire.command_name(message.command)} is not served")
        access, data = wire.DmaAccess.unpack_head(message.payload)
        if access.count > wire.MAX_DATA:
            raise OSError(errno.E2BIG, f"{access}")
        if len(data) != (access.count if message.command == Command.DMA_WRITE else 0):
            raise ProtocolError(f"{len(data)} bytes of data with {access}")
        if message.command == Command.DMA_READ:
            return access.pack() + self._read(access.address, access.count)
        self._write(access.address, data)
        return access.pack()

    def _read(self, address: int, count: int) -> bytes:
        for held in self._ranges:
            if held.holds(address, count):
                if not held.flags & DmaMapFlags.READ:
                    raise OSError(errno.EPERM, f"{address:#x} is not readable")
                return bytes(held.memory[address - held.address :][:count])
        if self._dma_read is None:
            raise OSError(errno.EFAULT, f"nothing at {address:#x}")
        return self._dma_read(address, count)

    def _write(self, address: int, data: bytes) -> None:
        for held in self._ranges:
            if held.holds(address, len(data)):
                if not held.flags & DmaMapFlags.WRITE:
                    raise OSError(errno.EPERM, f"{address:#x} is not writeable")
                offset = address - held.address
                held.memory[offset : offset + len(data)] = data
                return
        if self._dma_write is None:
            raise OSError(errno.EFAULT, f"nothing at {address:#x}")
        self._dma_write(address, data)
