# Ref: QEMU hw/i386/pc_q35.c, pc_q35_init (where RAM is split around the PCI hole)
"""Guest memory, read and written from outside while the guest runs.

RAM is a memory file that the harness makes and QEMU maps. It is reached through QEMU's own mapping
(``/proc/<pid>/mem``): a machine that was restored copy-on-write has pages that exist only there.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from harness.errors import HarnessError, MissingRequirement

HOLE_END: Final = 1 << 32
"""RAM that does not fit below the PCI hole goes on at 4 GiB."""


def low_memory(size: int) -> int:
    """Return how many of ``size`` bytes of a q35 machine's RAM lie below the PCI hole.

    All of them up to 2.75 GiB; else 2 GiB, so that the rest begins on a gigabyte.
    """
    return 0x8000_0000 if size >= 0xB000_0000 else size


class GuestRam:
    """RAM by guest physical address. Made by :func:`guest_memory`."""

    def __init__(self, mem_fd: int, base: int, size: int):
        self._mem_fd = mem_fd
        self._base = base
        self._size = size
        self._low = low_memory(size)

    @property
    def size(self) -> int:
        """Amount of RAM in bytes."""
        return self._size

    def read(self, address: int, count: int) -> bytes:
        """Return ``count`` bytes of RAM at a guest physical address.

        :raises OSError: EFAULT when there is no RAM, EIO when QEMU is gone.
        """
        data = os.pread(self._mem_fd, count, self._locate(address, count))
        if len(data) != count:
            raise OSError(errno.EIO, f"cannot read guest memory at {address:#x}: QEMU has ended")
        return data

    def write(self, address: int, data: bytes) -> None:
        """Write RAM at a guest physical address, behind the guest's back.

        :raises OSError: as :meth:`read`.
        """
        if os.pwrite(self._mem_fd, data, self._locate(address, len(data))) != len(data):
            raise OSError(errno.EIO, f"cannot write guest memory at {address:#x}: QEMU has ended")

    def _locate(self, address: int, count: int) -> int:
        if address >= 0 and address + count <= self._low:
            return self._base + address
        above = address - HOLE_END
        if above >= 0 and above + count <= self._size - self._low:
            return self._base + self._low + above
        raise OSError(
            errno.EFAULT,
            f"no guest memory at {address:#x}..{address + count:#x}: "
            f"{self._size >> 20} MiB, {self._low >> 20} of them below the PCI hole",
        )


@contextlib.contextmanager
def memory_file(size: int) -> Iterator[int]:
    """Hold an anonymous file of ``size`` bytes for a machine's RAM; yields its descriptor."""
    fd = os.memfd_create("imsh-ram", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def saved_memory_file(path: Path) -> Iterator[int]:
    """Hold the file of a saved machine's RAM, open for reading only; yields its descriptor.

    :raises OSError: it cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def guest_memory(pid: int, ram_fd: int) -> Iterator[GuestRam]:
    """Hold access to the RAM that process ``pid`` maps from the file ``ram_fd``, all of it.

    :raises HarnessError: the process does not map it.
    :raises MissingRequirement: this host does not let a parent look into its children's memory.
    """
    status = os.fstat(ram_fd)
    file = (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)
    base = _mapping(Path(f"/proc/{pid}/maps").read_text(), file, status.st_size)
    try:
        mem_fd = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
    except PermissionError as error:
        raise MissingRequirement(
            f"cannot open /proc/{pid}/mem: {error.strerror}",
            hint="kernel.yama.ptrace_scope must be 0 or 1",
        ) from error
    try:
        yield GuestRam(mem_fd, base, status.st_size)
    finally:
        os.close(mem_fd)


def _mapping(maps: str, file: tuple[int, int, int], size: int) -> int:
    """Return the address at which all ``size`` bytes of a file are mapped in one piece.

    :param file: major and minor number of its device, and its inode there.

    The kernel splits a mapping's lines where its attributes change; they still follow each other.
    """
    start = end = None
    for line in maps.splitlines():
        area, _, offset, device, inode, *_ = line.split()
        major, minor = (int(number, 16) for number in device.split(":"))
        if (major, minor, int(inode)) != file:
            continue
        low, high = (int(bound, 16) for bound in area.split("-"))
        if int(offset, 16) == 0:
            start = end = low
        if start is not None and low == end:
            end = high
    if start is None or end is None or end - start < size:
        raise HarnessError(f"QEMU does not map the {size >> 20} MiB of guest memory")
    return start
