# Ref: QEMU docs/interop/vfio-user.rst, "Header" and "Command Concurrency" (QEMU 11.1).
"""A client's end of a connection: calls and their replies, and an answer to what the server asks.

Calls are synchronous and may come from any thread, one after another. What the server asks for
meanwhile is answered by the calling thread while it waits for its own reply, and by an idle thread
between calls.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Final

from harness.errors import ProtocolError
from harness.host.deadline import Deadline
from harness.spec.vfio import MessageFlags
from harness.vfio_user import wire
from harness.vfio_user.channel import Channel, Observer
from harness.vfio_user.transcript import describe
from harness.vfio_user.wire import WireMessage

log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 30.0
"""How long the server may take over a reply."""

_NO_REPLY: Final = int(MessageFlags.NO_REPLY)
_ERROR: Final = int(MessageFlags.ERROR)
_ARMED: Final = select.EPOLLIN | select.EPOLLONESHOT


class Calls:
    """The connection of a client, which owns it from here on.

    :param answer: carries out a command of the server and returns the payload of the reply;
        ``OSError`` is its errno, ``ProtocolError`` EINVAL, anything else EIO and kept.
    """

    def __init__(
        self,
        connection: socket.socket,
        answer: Callable[[WireMessage], bytes],
        *,
        observer: Observer | None = None,
    ):
        self._deadline = Deadline(ANSWER_SECONDS, "the vfio-user server's reply")
        # Kept by the kernel: a wait that is bounded at the cost of no system call.
        limit = struct.pack("@ll", int(self._deadline.seconds) + 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._channel = Channel(connection, observer=observer)
        self._answer = answer
        self._ids = itertools.count()
        self._failure: Exception | None = None
        self._lock = threading.Lock()  # held by the thread that receives
        self._gone = False
        self._epoll = select.epoll()
        self._epoll.register(self._channel.fileno(), 0)
        self._idle = threading.Thread(target=self._serve_idle, name="vfio-user client")
        self._idle.start()

    def close(self) -> None:
        """Disconnect."""
        self._gone = True
        self._channel.shutdown()
        self._idle.join()
        self._channel.close()
        self._epoll.close()

    def call(
        self, command: int, payload: bytes = b"", fds: Sequence[int] = (), *, flags: int = 0
    ) -> WireMessage:
        """Send a command as it is given and return the reply, whose descriptors are the caller's.

        :raises OSError: the reply is an error, ``errno`` says which; ``ConnectionError`` when the
            server has gone.
        :raises DeadlineExpired: there was no reply in time.
        """
        with self._lock:
            self._arm(0)
            ident = self._send(command, payload, fds, flags)
            try:
                while True:
                    message = self._receive()
                    if message.is_reply and message.id == ident:
                        break
                    self._serve(message)
                while self._channel.has_message:
                    self._serve(self._receive())
            finally:
                self._arm(_ARMED)
        if message.flags & _ERROR:
            number = message.error
            raise OSError(number, f"{wire.command_name(command)}: {os.strerror(number)}")
        return message

    def post(self, command: int, payload: bytes) -> None:
        """Send a command that wants no reply.

        :raises ConnectionError: the server has gone.
        """
        self._send(command, payload, (), _NO_REPLY)

    def _send(self, command: int, payload: bytes, fds: Sequence[int], flags: int) -> int:
        ident = next(self._ids) & 0xFFFF
        self._channel.send(WireMessage(ident, command, flags, payload, 0, list(fds)))
        return ident

    def _receive(self) -> WireMessage:
        try:
            message = self._channel.receive()
        except BlockingIOError:
            raise self._deadline.error() from None
        if message is None:
            self._gone = True
            raise ConnectionResetError(errno.ECONNRESET, "the vfio-user server has gone")
        return message

    # What the server asks

    def _arm(self, events: int) -> None:
        """Choose whether the idle thread wakes up when something arrives."""
        if not self._gone:
            self._epoll.modify(self._channel.fileno(), events)

    def _serve_idle(self) -> None:
        """Answer the server while no call is made."""
        ready = select.poll()
        ready.register(self._channel.fileno(), select.POLLIN)
        while True:
            self._epoll.poll()
            with self._lock, contextlib.suppress(ConnectionError):
                while not self._gone and (self._channel.has_message or ready.poll(0)):
                    self._serve(self._receive())
                self._arm(_ARMED)
            if self._gone:
                return

    def _serve(self, message: WireMessage) -> None:
        """Answer one request of the server."""
        message.close_fds()
        if message.is_reply:
            log.warning("a reply to nothing: %s", describe(message))
            return
        try:
            answer = message.reply(self._answer(message))
        except OSError as error:
            answer = message.error_reply(error.errno or errno.EIO)
        except ProtocolError as error:
            log.warning("%s: %s", describe(message), error)
            answer = message.error_reply(errno.EINVAL)
        except Exception as error:
            self._failure = self._failure or error
            answer = message.error_reply(errno.EIO)
        if message.wants_reply:
            self._channel.send(answer)
