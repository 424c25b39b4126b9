# Ref: QEMU docs/interop/vfio-user.rst, VFIO_USER_DMA_MAP to VFIO_USER_DMA_WRITE (QEMU 11.1).
"""Client memory: which ranges the client has given, and reading and writing them."""

from __future__ import annotations

import bisect
import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from harness.spec.vfio import DmaMapFlags
from harness.vfio_user.client_file import FilePages, OwnMemory

MAX_MAPS: Final = 16384
"""Ranges kept at a time.

A quarter of the mappings that the kernel lets a process have (vm.max_map_count, 65530): each range
with a descriptor is one. They need no descriptors, of which a process may have as few as 1024.
"""
PAGE_SIZE: Final = 4096
"""Granularity of ranges, in bytes."""

_ALL_FLAGS: Final = int(DmaMapFlags.READ | DmaMapFlags.WRITE)

AskRead = Callable[[int, int], bytes]
AskWrite = Callable[[int, bytes], None]


@dataclass(frozen=True, slots=True)
class Mapping:
    """A range of client memory: I/O virtual address, size in bytes, and its pages if here."""

    address: int
    size: int
    flags: DmaMapFlags
    pages: FilePages | None = None

    @property
    def end(self) -> int:
        """First address behind the range."""
        return self.address + self.size


class GuestMemory:
    """The client's DMA ranges. Any thread may read and write; the server's thread maps and unmaps.

    What is mapped with a file descriptor is accessed in place. Everything else is asked from the
    client with messages, also what it never mapped: the client answers for its own memory, and with
    a virtual IOMMU in between its refusal leaves the trace (a fault record) that a real device's
    access would.

    :param ask_read: reads client memory by messages (address, count); blocks.
    :param ask_write: writes client memory by messages (address, data); blocks.
    :param direct: access pages in place. To be False for a client whose file descriptors do not
        show what its guest sees: QEMU passes the file of a RAM block whether it is mapped shared or
        private, and with ``share=off`` (a snapshot restored copy-on-write) the file holds stale
        pages.
    """

    def __init__(self, ask_read: AskRead, ask_write: AskWrite, *, direct: bool = True):
        self._ask_read = ask_read
        self._ask_write = ask_write
        self._direct = direct
        self._own: OwnMemory | None = None
        self._lock = threading.Lock()
        self._starts: list[int] = []
        self._mappings: list[Mapping] = []  # by address, as _starts

    @property
    def mappings(self) -> tuple[Mapping, ...]:
        """The ranges given, by address."""
        with self._lock:
            return tuple(self._mappings)

    def map(
        self, address: int, size: int, flags: DmaMapFlags, fd: int | None, fd_offset: int
    ) -> None:
        """Add a range. ``fd`` stays the caller's.

        :raises OSError: EINVAL for a range that is empty, unaligned or wraps, for no access right,
            or for a file that is too short; EEXIST when it overlaps another; ENOSPC when there are
            ``MAX_MAPS``; what :class:`FilePages` says of the descriptor.
        """
        if not size or (address | size) % PAGE_SIZE or address + size > 1 << 64:
            raise OSError(errno.EINVAL, f"range {address:#x}+{size:#x} is no run of pages")
        if not flags or int(flags) & ~_ALL_FLAGS:
            raise OSError(errno.EINVAL, f"DMA_MAP flags {int(flags):#x}")
        with self._lock:
            place = bisect.bisect_left(self._starts, address)
            before, after = self._mappings[place - 1 : place], self._mappings[place : place + 1]
            if (before and before[0].end > address) or (
                after and after[0].address < address + size
            ):
                raise OSError(errno.EEXIST, f"range {address:#x}+{size:#x} overlaps another")
            if len(self._mappings) >= MAX_MAPS:
                raise OSError(errno.ENOSPC, f"more than {MAX_MAPS} ranges")
            pages = None
            if fd is not None and self._direct:
                self._own = self._own or OwnMemory()
                pages = FilePages(self._own, fd, size, flags, fd_offset)
            self._starts.insert(place, address)
            self._mappings.insert(place, Mapping(address, size, flags, pages))

    def unmap(self, address: int, size: int) -> None:
        """Take away every range inside the given one; none of them is in use on return.

        The protocol speaks of one exact range. A wider one is accepted, as VFIO's type1 IOMMU does:
        QEMU's virtual IOMMU unmaps an address space in powers of two that cover many ranges.

        :raises OSError: ENOENT when there is none inside, EINVAL when one is only partly inside.
        """
        end = address + size
        with self._lock:
            first = bisect.bisect_left(self._starts, address)
            last = bisect.bisect_left(self._starts, end)
            if first and self._mappings[first - 1].end > address:
                raise OSError(errno.EINVAL, f"{address:#x} is in the middle of a range")
            if last > first and self._mappings[last - 1].end > end:
                raise OSError(errno.EINVAL, f"{end:#x} is in the middle of a range")
            if last == first:
                raise OSError(errno.ENOENT, f"nothing is mapped in {address:#x}+{size:#x}")
            self._drop(first, last)

    def clear(self) -> None:
        """Take away every range; what was held for them is given back."""
        with self._lock:
            self._drop(0, len(self._mappings))
            if self._own is not None:
                self._own.close()
                self._own = None

    def _drop(self, first: int, last: int) -> None:
        for mapping in self._mappings[first:last]:
            if mapping.pages is not None:
                mapping.pages.close()
        del self._mappings[first:last]
        del self._starts[first:last]

    def _piece(self, address: int, count: int, right: DmaMapFlags) -> tuple[int, Mapping | None]:
        """Return how many bytes from here are reached the same way, and their pages if here.

        The caller holds the lock.
        """
        place = bisect.bisect_right(self._starts, address)
        if place and address < (mapping := self._mappings[place - 1]).end:
            usable = mapping.pages is not None and mapping.flags & right
            return min(count, mapping.end - address), mapping if usable else None
        if place < len(self._starts):
            return min(count, self._starts[place] - address), None
        return count, None

    def read(self, address: int, count: int) -> bytes:
        """Return ``count`` bytes of client memory.

        :raises OSError: EFAULT beyond the end of the address space, or where the client has cut
            its file short; else the client refused, and ``errno`` is its answer.
        """
        _check_range(address, count)
        result = bytearray()
        while count:
            with self._lock:
                size, mapping = self._piece(address, count, DmaMapFlags.READ)
                if mapping is not None:
                    assert mapping.pages is not None
                    result += mapping.pages.read(address - mapping.address, size)
            if mapping is None:
                result += self._ask_read(address, size)
            address += size
            count -= size
        return bytes(result)

    def write(self, address: int, data: bytes) -> None:
        """Write client memory.

        :raises OSError: as :meth:`read`. What precedes the refused part may have been written.
        """
        _check_range(address, len(data))
        while data:
            with self._lock:
                size, mapping = self._piece(address, len(data), DmaMapFlags.WRITE)
                if mapping is not None:
                    assert mapping.pages is not None
                    mapping.pages.write(address - mapping.address, data[:size])
            if mapping is None:
                self._ask_write(address, data[:size])
            address += size
            data = data[size:]


def _check_range(address: int, count: int) -> None:
    if address + count > 1 << 64:
        raise OSError(errno.EFAULT, f"{address:#x}+{count:#x} leaves the address space")
