"""Lines to and from the control tool over a virtio-serial port: no handshake, no encryption."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Final

from harness.errors import GuestLost, HarnessError, ProtocolError
from harness.guest.ssh import Lifeline
from harness.host.deadline import Deadline

LONGEST_REPLY: Final = 64 << 20
"""Bytes of a reply; the longest that the tool sends (a kernel log, a large file) are a few MiB."""
GRACE_SECONDS: Final = 1.0
"""How long a closed port is given for its cause to become known."""


class LinePort:
    """Requests and replies, a line each. Made by :func:`line_port`; one user at a time."""

    def __init__(self, connection: socket.socket, lifeline: Lifeline):
        self._connection = connection
        self._lifeline = lifeline
        self._unsent = bytearray()
        """What a deadline that ran out left of a request: half a line would spoil the next."""
        self._rest = bytearray()
        """What came behind the last reply, or so far of the next one."""

    def ask(self, line: str, deadline: Deadline, late: Callable[[str], bool]) -> str:
        """Send a line and return the line that comes back, without their line ends.

        :param late: says of a line whether it answers an earlier request, which was given up.
        :raises DeadlineExpired: none came.
        :raises ProtocolError: there is no end of it; nor is there of any later one.
        :raises GuestLost: the machine was lost.
        """
        if error := self._lifeline.error:
            raise error
        self._unsent += line.encode() + b"\n"
        try:
            while self._unsent:
                self._connection.settimeout(deadline.check())
                del self._unsent[: self._connection.send(self._unsent)]
            while late(reply := self._next_line(deadline)):
                pass
        except TimeoutError:
            raise self._lifeline.error or deadline.error() from None
        except OSError as error:
            raise self._ended() from error
        return reply

    def _next_line(self, deadline: Deadline) -> str:
        end = self._rest.find(b"\n")
        while end < 0:
            if len(self._rest) > LONGEST_REPLY:
                raise ProtocolError(f"{len(self._rest)} bytes from the guest, and no line end")
            self._connection.settimeout(deadline.check())
            data = self._connection.recv(1 << 20)
            if not data:
                raise self._ended()
            searched = len(self._rest)
            self._rest += data
            end = self._rest.find(b"\n", searched)
        line = self._rest[:end].decode(errors="replace")
        del self._rest[: end + 1]
        return line

    def _ended(self) -> HarnessError:
        return self._lifeline.wait_lost(GRACE_SECONDS) or GuestLost("the guest's port is closed")


@contextlib.contextmanager
def line_port(connection: socket.socket, lifeline: Lifeline) -> Iterator[LinePort]:
    """Hold a port over our end of it, which stays its owner's; a lost machine ends every wait."""

    def shut() -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    with lifeline.on_loss(shut):
        yield LinePort(connection, lifeline)
