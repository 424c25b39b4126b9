"""What the vfio-user tests say often."""

from __future__ import annotations

import contextlib
import errno
import os
import select
from collections.abc import Iterator

import pytest

from harness.host.deadline import Deadline


@contextlib.contextmanager
def refused(number: int) -> Iterator[None]:
    """Expect that the peer answers with this errno."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is the check
        yield
    name = errno.errorcode[number]
    assert errno.errorcode.get(caught.value.errno or 0) == name, caught.value


@contextlib.contextmanager
def ending_with(
    kind: type[Exception], match: str | None = None
) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expect that what is held inside raises this, at its end at the latest."""
    with pytest.raises(kind, match=match) as caught:
        yield caught


@contextlib.contextmanager
def eventfds(count: int) -> Iterator[list[int]]:
    """Hold some eventfds."""
    fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def signals(fd: int) -> int:
    """Return how often an eventfd was signalled since it was last asked."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return os.eventfd_read(fd) if poll.poll(0) else 0


def soon(what: str, seconds: float = 5.0) -> Deadline:
    """Return a deadline that sound code never reaches."""
    return Deadline(seconds, what)
