# Ref: Linux include/uapi/linux/aio_abi.h (v6.12), struct iocb, IOCB_FLAG_RESFD; io_submit(2);
#      fs/eventfd.c, eventfd_signal(); arch/x86/entry/syscalls/syscall_64.tbl and
#      include/uapi/asm-generic/unistd.h (numbers).
"""Signalling an eventfd that belongs to somebody else, without ever waiting for him.

write(2) to an eventfd waits while the counter is full, unless O_NONBLOCK is set; counter and flag
are both the owner's, who may change them between our look and our write. The kernel's own signal
never waits: it stops at the highest value. It is to be had from user space as the notification
that an asynchronous read has ended. Ours is of no bytes, from the eventfd itself: it ends at once.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import select
import struct
import threading
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class _Numbers:
    """System calls that the C library does not wrap."""

    io_setup: int
    io_submit: int
    io_getevents: int


_NUMBERS: Final = {"x86_64": _Numbers(206, 209, 208), "aarch64": _Numbers(0, 2, 4)}

# data, key, rw_flags, opcode, reqprio, fildes, buf, nbytes, offset, reserved2, flags, resfd
_IOCB: Final = struct.Struct("<QIIHhIQQqQII")
_PREAD: Final = 0  # IOCB_CMD_PREAD
_RESFD: Final = 1  # IOCB_FLAG_RESFD
_EVENT_SIZE: Final = 32  # struct io_event
_ROOM: Final = 64  # notifications of ended reads that nobody has looked at


class Signaller:
    """Adds 1 to eventfds. Any thread may use it. It lives as long as the process.

    :raises OSError: the host has no asynchronous I/O, or no more of it (fs.aio-max-nr).
    """

    def __init__(self) -> None:
        numbers = _NUMBERS.get(platform.machine())
        if numbers is None:
            raise OSError(errno.ENOSYS, f"system calls of {platform.machine()} are not known")
        self._lock = threading.Lock()
        self._iocb = ctypes.create_string_buffer(_IOCB.size)
        self._iocbs = (ctypes.c_void_p * 1)(ctypes.addressof(self._iocb))
        self._events = ctypes.create_string_buffer(_ROOM * _EVENT_SIZE)
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long
        self._context = ctypes.c_ulong(0)
        # Arguments are made once: this is done for every interrupt.
        pointer = ctypes.byref(self._context)
        self._submit = (ctypes.c_long(numbers.io_submit), self._context, ctypes.c_long(1))
        self._reap = (
            *(ctypes.c_long(numbers.io_getevents), self._context),
            *(ctypes.c_long(0), ctypes.c_long(_ROOM), ctypes.byref(self._events), None),
        )
        self._call(ctypes.c_long(numbers.io_setup), ctypes.c_long(_ROOM), pointer)

    def _call(self, *arguments: object) -> None:
        if self._syscall(*arguments) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def signal(self, fd: int) -> None:
        """Add 1 to an eventfd, as far as there is room; never blocks.

        :raises OSError: EINVAL when it is no eventfd.
        """
        with self._lock:
            _IOCB.pack_into(self._iocb, 0, 0, 0, 0, _PREAD, 0, fd, 0, 0, 0, 0, _RESFD, fd)
            try:
                self._call(*self._submit, self._iocbs)
            except BlockingIOError:  # as many have ended as there is room for: forget them
                self._call(*self._reap)
                self._call(*self._submit, self._iocbs)


class PollingSignaller:
    """The same where the host has no asynchronous I/O.

    It looks first, and can still be made to wait by a client that fills its counter right then.
    """

    def signal(self, fd: int) -> None:
        """Add 1 to an eventfd, if there is room."""
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        # At its highest value an eventfd says POLLERR, and is not writable.
        if poll.poll(0) == [(fd, select.POLLOUT)]:
            os.eventfd_write(fd, 1)


@functools.cache
def signaller() -> Signaller | PollingSignaller:
    """Return the process's signaller: the kernel takes 30 ms to end one, too long for each VM."""
    try:
        return Signaller()
    except OSError:
        return PollingSignaller()


def is_eventfd(fd: int) -> bool:
    """Whether a descriptor is an eventfd."""
    return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]"
