# Ref: "Debugging with GDB", appendix E, "GDB Remote Serial Protocol": packets m, M and D
"""A stopped guest's memory by virtual address, kernel text included, through QEMU's gdb stub.

Text cannot be changed from outside in another way: a write into the file behind guest memory leaves
standing what QEMU has translated already. Nor do the guest's page tables keep the stub from writing
to a page that is read-only.

QEMU stops the guest when the debugger connects, and lets it go on when that detaches; the whole
takes some 30 ms. (Tried with QEMU 11.1.3, under software emulation.)
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Final

from harness.errors import ProtocolError
from harness.host.deadline import Deadline
from harness.host.workspace import nameless_listener
from harness.qemu.machine import Machine

STUB_SECONDS: Final = 20.0
"""Bound of all that is done while the guest stands."""

CHUNK: Final = 0x400
"""Bytes in one packet: QEMU's are 4 KiB, in hex (gdbstub/internals.h, MAX_PACKET_LENGTH)."""

_LONGEST: Final = 0x4000
"""No answer is longer, whatever the peer says."""


class StoppedGuest:
    """The guest's memory as its first CPU sees it. Made by :func:`stopped_guest`.

    :raises ProtocolError: there is no memory at an address; true of both methods.
    :raises DeadlineExpired: the stub does not answer; likewise.
    """

    def __init__(self, connection: socket.socket, deadline: Deadline):
        self._connection = connection
        self._deadline = deadline
        self._received = b""

    def read(self, address: int, count: int) -> bytes:
        """Return ``count`` bytes at a virtual address."""
        data = bytearray()
        while len(data) < count:
            at, size = address + len(data), min(CHUNK, count - len(data))
            answer = self._ask(f"m{at:x},{size:x}")
            try:
                piece = bytes.fromhex(answer)
            except ValueError:
                piece = b""  # E and two digits, for one
            if len(piece) != size:
                raise ProtocolError(f"no guest memory at {at:#x}", evidence=answer)
            data += piece
        return bytes(data)

    def write(self, address: int, data: bytes) -> None:
        """Write at a virtual address."""
        for start in range(0, len(data), CHUNK):
            at, piece = address + start, data[start : start + CHUNK]
            answer = self._ask(f"M{at:x},{len(piece):x}:{piece.hex()}")
            if answer != "OK":
                raise ProtocolError(f"cannot write guest memory at {at:#x}", evidence=answer)

    def detach(self) -> None:
        """Let the guest go on."""
        self._ask("D")

    def _ask(self, request: str) -> str:
        body = request.encode("ascii")
        self._connection.settimeout(self._deadline.check(request))
        try:
            self._connection.sendall(b"$%b#%02x" % (body, sum(body) % 256))
            answer = self._packet(request)
            self._connection.sendall(b"+")
        except TimeoutError:
            raise self._deadline.error(request) from None
        except OSError as error:
            raise ProtocolError(f"QEMU's gdb stub is gone: {error}", evidence=request) from error
        return answer

    def _packet(self, request: str) -> str:
        """Return the next answer; acknowledgements are skipped."""
        while True:
            _, begin, rest = self._received.partition(b"$")
            body, end, tail = rest.partition(b"#")
            if begin and end and len(tail) >= 2:
                self._received = tail[2:]
                if b"%02x" % (sum(body) % 256) != tail[:2].lower():
                    raise ProtocolError("an answer of QEMU's gdb stub is damaged", evidence=request)
                return body.decode("ascii", "replace")
            if len(self._received) > _LONGEST:
                raise ProtocolError("an answer of QEMU's gdb stub has no end", evidence=request)
            self._connection.settimeout(self._deadline.check(request))
            received = self._connection.recv(_LONGEST)
            if not received:
                raise ProtocolError("QEMU's gdb stub has hung up", evidence=request)
            self._received += received


@contextlib.contextmanager
def stopped_guest(machine: Machine) -> Iterator[StoppedGuest]:
    """Hold the guest stopped, with its memory at hand; at exit it goes on.

    :raises MonitorCommandError: QEMU has no stub for this machine.
    :raises HarnessError: it does not connect, or the machine is lost.
    """
    machine.vitals.check()
    deadline = Deadline(STUB_SECONDS, f"QEMU's gdb stub of {machine.spec.name}")
    with contextlib.ExitStack() as stack:
        listener, path = stack.enter_context(nameless_listener())
        said = machine.qmp.human(f"gdbserver unix:{path}", deadline=deadline)
        stack.callback(machine.qmp.human, "gdbserver none")
        listener.settimeout(deadline.remaining())
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            raise deadline.error(said) from None
        stack.enter_context(connection)
        guest = StoppedGuest(connection, deadline)
        stack.callback(guest.detach)
        yield guest
