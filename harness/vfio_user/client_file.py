# Ref: mmap(2); proc(5), /proc/pid/mem.
"""A part of a file that belongs to the client, accessed in place.

The client can take pages of its file away at any moment (ftruncate), and then a load or a store of
ours would be SIGBUS and our end. So the pages are mapped, and it is the kernel that touches them,
through /proc/self/mem: a page that is not there any more is an error. Unlike pread(2) and pwrite(2)
this works for every file that can be mapped (hugetlbfs cannot be written), needs no descriptor for
each mapping, and never makes the file longer. It takes 2 us, where a store takes 0.2.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat

from harness.spec.vfio import DmaMapFlags

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_longlong,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FAILED = ctypes.c_void_p(-1).value


class OwnMemory:
    """This process's memory, as a file. Owns the descriptor."""

    def __init__(self) -> None:
        self._fd = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)

    def read(self, address: int, count: int) -> bytes:
        """Return bytes of our memory.

        :raises OSError: EFAULT when they are not all there.
        """
        data = b""
        try:
            data = os.pread(self._fd, count, address)
        except OSError as error:
            _unless_gone(error)
        return _whole(data, len(data), count)

    def write(self, address: int, data: bytes) -> None:
        """Write to our memory.

        :raises OSError: EFAULT when not all of the place is there.
        """
        done = 0
        try:
            done = os.pwrite(self._fd, data, address)
        except OSError as error:
            _unless_gone(error)
        _whole(data, done, len(data))


def _unless_gone(error: OSError) -> None:
    if error.errno != errno.EIO:
        raise error


def _whole(data: bytes, done: int, count: int) -> bytes:
    if done < count:
        raise OSError(errno.EFAULT, f"the client has taken away {count - done} of {count} bytes")
    return data


class FilePages:
    """Pages of a client's file, mapped shared. The file descriptor stays the caller's.

    :param offset: of the first byte in the file.
    :raises OSError: ENODEV for what is no file (a pipe, a directory, a device, an eventfd), EINVAL
        for an offset that is not aligned and for a file that is too short, EACCES for a descriptor
        that does not give the rights asked for; what mmap(2) says.
    """

    def __init__(self, memory: OwnMemory, fd: int, size: int, flags: DmaMapFlags, offset: int):
        status = os.fstat(fd)
        # Not even /dev/zero: it would be mapped, but to pages that the client does not see.
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ENODEV, "a file descriptor that is not a file's")
        if offset + size > status.st_size:
            raise OSError(
                errno.EINVAL, f"{size:#x} bytes at {offset:#x} of a file of {status.st_size:#x}"
            )
        rights = (mmap.PROT_READ if flags & DmaMapFlags.READ else 0) | (
            mmap.PROT_WRITE if flags & DmaMapFlags.WRITE else 0
        )
        base = _libc.mmap(None, size, rights, mmap.MAP_SHARED, fd, offset)
        if base == _MAP_FAILED:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot map {size:#x} bytes: {os.strerror(number)}")
        self._base: int | None = base
        self._size = size
        self._memory = memory

    def close(self) -> None:
        """Unmap the pages."""
        if self._base is not None:
            _libc.munmap(self._base, self._size)
            self._base = None

    def read(self, offset: int, count: int) -> bytes:
        """Return bytes of the pages, which hold them.

        :raises OSError: EFAULT when the client has taken pages away.
        """
        return self._memory.read(self._address(offset, count), count)

    def write(self, offset: int, data: bytes) -> None:
        """Write to the pages, which have the room.

        :raises OSError: EFAULT when the client has taken pages away.
        """
        self._memory.write(self._address(offset, len(data)), data)

    def _address(self, offset: int, count: int) -> int:
        # Anything else would be memory of our own.
        assert self._base is not None
        assert offset >= 0
        assert offset + count <= self._size
        return self._base + offset
