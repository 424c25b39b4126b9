# Ref: QEMU docs/interop/vfio-user.rst, VFIO_USER_DMA_READ and VFIO_USER_DMA_WRITE (QEMU 11.1).
"""What the server asks of its client: requests under way, their answers, and waiting for them."""

from __future__ import annotations

import errno
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from harness.host.deadline import Deadline
from harness.spec.vfio import Command, MessageFlags
from harness.vfio_user import wire
from harness.vfio_user.wire import WireMessage

ANSWER_SECONDS: Final = 30.0
"""How long the client may take over a DMA message."""

LARGEST_DMA: Final = 64 << 10
"""Bytes of client memory asked for in one message, if the client's limit is not lower.

QEMU 11.1 sends a reply with one non-blocking write and takes a partial one for a whole one
(hw/vfio-user/proxy.c, vfio_user_send_qio()): what does not fit into a socket buffer is lost.
"""

MAX_REQUESTS: Final = 1 << 15
"""Messages to the client that may wait for an answer; ids have 16 bits."""

_ERROR: Final = int(MessageFlags.ERROR)


class Requests:
    """The requests to one client. Any thread asks; the thread that opened them brings the answers.

    :param send: sends a message without waiting for the client.
    """

    def __init__(self, send: Callable[[WireMessage], None]):
        self._send = send
        self._largest = LARGEST_DMA
        self._answering: threading.Thread | None = None
        self._lock = threading.Lock()
        self._open = False
        self._pending: dict[int, tuple[int, Future[bytes]]] = {}
        self._ids = itertools.count()

    def open(self, max_data: int) -> None:
        """Begin to take requests, with at most ``max_data`` bytes of data in one message.

        Called on the thread that will call :meth:`complete`.
        """
        self._answering = threading.current_thread()
        self._largest = min(max_data, LARGEST_DMA)
        with self._lock:
            self._open = True

    def close(self) -> None:
        """End every request that is under way, and all to come, with ``ConnectionError``."""
        with self._lock:
            self._open = False
            orphans = list(self._pending.values())
            self._pending.clear()
        for _, future in orphans:
            future.set_exception(ConnectionResetError(errno.ECONNRESET, "the client has gone"))

    def ask(self, command: Command, payload: bytes) -> Future[bytes]:
        """Send a command; the future ends with the answer's payload, when :meth:`complete` has it.

        It ends with ``OSError``: the client's errno, EBUSY when ``MAX_REQUESTS`` wait for answers,
        or ``ConnectionError`` when there is no client.
        """
        return self._post(command, payload)[1]

    def _post(self, command: Command, payload: bytes) -> tuple[int, Future[bytes]]:
        future: Future[bytes] = Future()
        future.set_running_or_notify_cancel()  # no one may cancel what the client answers
        with self._lock:
            if not self._open:
                future.set_exception(ConnectionResetError(errno.ECONNRESET, "there is no client"))
                return -1, future
            if len(self._pending) >= MAX_REQUESTS:
                future.set_exception(OSError(errno.EBUSY, "the client leaves too much unanswered"))
                return -1, future
            ident = next(i for n in self._ids if (i := n & 0xFFFF) not in self._pending)
            self._pending[ident] = (command, future)
        try:
            self._send(WireMessage(ident, command, 0, payload))
        except OSError as error:
            if self._forget(ident):
                future.set_exception(error)
        return ident, future

    def _forget(self, ident: int) -> bool:
        """Stop waiting for an answer; False when it has come."""
        with self._lock:
            return self._pending.pop(ident, None) is not None

    def complete(self, message: WireMessage) -> bool:
        """End the future of the request that this answers; False when it answers none."""
        with self._lock:
            command, future = self._pending.get(message.id, (None, None))
            if future is None or command != message.command:
                return False
            del self._pending[message.id]
        if message.flags & _ERROR:
            number = message.error or errno.EIO
            name = wire.command_name(message.command)
            future.set_exception(OSError(number, f"{name} refused by the client"))
        else:
            future.set_result(message.payload)
        return True

    def _wait(self, command: Command, payload: bytes) -> bytes:
        if threading.current_thread() is self._answering:
            raise RuntimeError(f"{command.name} on the server's thread would wait for itself")
        deadline = Deadline(ANSWER_SECONDS, f"the client's answer to {command.name}")
        ident, future = self._post(command, payload)
        try:
            return future.result(deadline.remaining())
        except TimeoutError:
            # The future may also end with a TimeoutError of its own: the client's ETIMEDOUT.
            if self._forget(ident):
                raise OSError(errno.ETIMEDOUT, str(deadline.error())) from None
            return future.result()

    def _pieces(self, address: int, count: int) -> list[wire.DmaAccess]:
        return [
            wire.DmaAccess(address + done, min(self._largest, count - done))
            for done in range(0, count, self._largest)
        ]

    def read(self, address: int, count: int) -> bytes:
        """Return client memory, by DMA_READ; blocks.

        :raises OSError: the client's errno; EPROTO when it sends too little, ETIMEDOUT when it
            sends nothing.
        """
        result = bytearray()
        for access in self._pieces(address, count):
            answer = self._wait(Command.DMA_READ, access.pack())
            data = answer[wire.DmaAccess.FORMAT.size :]
            if len(data) < access.count:
                raise OSError(errno.EPROTO, f"{len(data)} bytes in the answer to {access}")
            result += data[: access.count]
        return bytes(result)

    def write(self, address: int, data: bytes) -> None:
        """Write client memory, by DMA_WRITE; blocks.

        :raises OSError: as :meth:`read`.
        """
        for access in self._pieces(address, len(data)):
            place = access.address - address
            self._wait(Command.DMA_WRITE, access.pack() + data[place : place + access.count])
