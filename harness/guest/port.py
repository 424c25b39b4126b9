"""Lines to and from the control tool over a virtio-serial port: no handshake, no encryption."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Final

from harness.errors import GuestLost, HarnessError
from harness.guest.ssh import Lifeline
from harness.host.deadline import Deadline

ANSWER_SECONDS: Final = 20.0
GRACE_SECONDS: Final = 1.0
"""How long a closed port is given for its cause to become known."""


class LinePort:
    """Requests and replies, a line each. Made by :func:`line_port`; one user at a time."""

    def __init__(self, connection: socket.socket, lifeline: Lifeline):
        self._connection = connection
        self._lifeline = lifeline
        self._rest = b""

    def ask(self, line: str, deadline: Deadline | None = None) -> str:
        """Send a line and return the line that comes back, without their line ends.

        After a deadline that ran out, the reply may still come: the next request gets it.

        :raises DeadlineExpired: none came.
        :raises GuestLost: the machine was lost.
        """
        if error := self._lifeline.error:
            raise error
        deadline = deadline or Deadline(ANSWER_SECONDS, "the guest's answer")
        try:
            self._connection.settimeout(deadline.check())
            self._connection.sendall(line.encode() + b"\n")
            while b"\n" not in self._rest:
                self._connection.settimeout(deadline.check())
                data = self._connection.recv(1 << 20)
                if not data:
                    raise self._ended()
                self._rest += data
        except TimeoutError:
            raise self._lifeline.error or deadline.error() from None
        except OSError as error:
            raise self._ended() from error
        reply, _, self._rest = self._rest.partition(b"\n")
        return reply.decode(errors="replace")

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
