"""Messages over a UNIX stream socket: framing, and the ownership of passed file descriptors.

Sending and the deadlock that it can cause: each side answers the other's requests over one socket.
If both stop reading while they wait for room in the other's receive buffer, neither ever goes on.
So one side must never stop reading, and here that is the server: its channel is made with
``never_block``, and what does not fit into the socket goes to a backlog that a writer thread sends.
The backlog is bounded; a peer that asks and never reads is cut off. A client's channel blocks in
:meth:`Channel.send`, which is the back-pressure that a stream of posted writes needs.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from harness.errors import ProtocolError
from harness.vfio_user.wire import HEADER, MAX_MESSAGE, WireMessage

Observer = Callable[[str, WireMessage], None]
"""Told of every message: ``"<-"`` received or ``"->"`` sent. May run on any thread."""

MAX_BACKLOG: Final = 16 << 20
"""Bytes that may wait for a peer that does not read before the connection is given up."""
MAX_BACKLOG_FDS: Final = 64
"""File descriptors that may wait likewise."""

_CHUNK: Final = 256 << 10  # what waits is kept in pieces of this size: messages are small
_RECEIVE_BUFFER: Final = 64 << 10
_SCM_MAX_FD: Final = 253  # Linux include/net/scm.h: more than this in one sendmsg() is refused
_ANCILLARY: Final = socket.CMSG_SPACE(_SCM_MAX_FD * array.array("i").itemsize)


def _rights(fds: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    """Return the ancillary data that passes file descriptors."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]


@dataclass(slots=True)
class _Chunk:
    """Bytes that wait to be sent, and the descriptors (owned) that go with the first of them."""

    data: bytearray
    fds: list[int]


class FramingError(ProtocolError):
    """The size in a header cannot be right: where the next message starts is unknown.

    ``header`` is what it stood in, for the answer.
    """

    def __init__(self, size: int, header: WireMessage):
        super().__init__(f"a message of {size} bytes: not between {HEADER.size} and {MAX_MESSAGE}")
        self.header = header


class Channel:
    """One end of a vfio-user connection. Owns the socket, and descriptors until they are received.

    One thread receives; any thread sends.

    :param never_block: :meth:`send` must not wait for the peer (see the module's text).
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        never_block: bool = False,
        observer: Observer | None = None,
    ):
        connection.setblocking(True)
        self._socket = connection
        self._never_block = never_block
        self._observer = observer
        self._buffer = bytearray(_RECEIVE_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0  # of the first message not yet given out
        self._end = 0  # of what was received
        self._fds: list[int] = []
        self._fds_lost = False
        self._send_lock = threading.Lock()
        self._backlog: deque[_Chunk] = deque()
        self._backlog_size = 0
        self._backlog_fds = 0
        self._writer: threading.Thread | None = None
        self._shut = False

    def fileno(self) -> int:
        """Return the socket's file descriptor, to poll it."""
        return self._socket.fileno()

    @property
    def has_message(self) -> bool:
        """Whether bytes have been read from the socket that :meth:`receive` has not given out."""
        return self._start < self._end

    def receive(self) -> WireMessage | None:
        """Wait for the next message and return it; None when the peer has gone.

        File descriptors are taken to belong to the last message that begins in what one system call
        returned: the kernel ends a read after the bytes that descriptors came with, and senders put
        such a message into a sendmsg() of its own.

        :raises FramingError: its size cannot be right; nothing can be received any more.
        """
        missing = HEADER.size
        while True:
            have = self._end - self._start
            if have >= HEADER.size:
                ident, command, size, flags, error = HEADER.unpack_from(self._buffer, self._start)
                if not HEADER.size <= size <= MAX_MESSAGE:
                    raise FramingError(size, WireMessage(ident, command, flags))
                if have >= size:
                    break
                missing = size - have
                if self._start + size > len(self._buffer):
                    self._make_room(size)
            else:
                missing = HEADER.size - have
            if not self._fill(missing):
                return None
        payload = bytes(self._view[self._start + HEADER.size : self._start + size])
        self._start += size
        if self._fds and self._start == self._end:
            message = WireMessage(ident, command, flags, payload, error, self._fds, self._fds_lost)
            self._fds, self._fds_lost = [], False
        elif self._fds_lost and self._start == self._end:
            message = WireMessage(ident, command, flags, payload, error, fds_lost=True)
            self._fds_lost = False
        else:
            message = WireMessage(ident, command, flags, payload, error)
        if self._observer is not None:
            self._observer("<-", message)
        return message

    def _make_room(self, size: int) -> None:
        """Move what is there to the front of a buffer that holds ``size`` bytes."""
        have = bytes(self._view[self._start : self._end])
        if size > len(self._buffer):
            self._buffer = bytearray(size)
            self._view = memoryview(self._buffer)
        self._buffer[: len(have)] = have
        self._start, self._end = 0, len(have)

    def _fill(self, missing: int) -> bool:
        """Receive at least a byte; False at the end of the stream."""
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._buffer) - self._end < missing:
            self._make_room(self._end - self._start + missing)
        # With descriptors in hand, nothing beyond their message is read: see receive().
        stop = self._end + missing if self._fds or self._fds_lost else len(self._buffer)
        try:
            count, ancillary, flags, _ = self._socket.recvmsg_into(
                [self._view[self._end : stop]], _ANCILLARY, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError:
            return False
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self._keep(fds)
        # Room for every descriptor is given, so this is our own table of open files being full.
        if flags & socket.MSG_CTRUNC:
            self._fds_lost = True
        self._end += count
        return count > 0

    def _keep(self, fds: array.array[int]) -> None:
        """Hold descriptors for their message; no more than one sendmsg() can pass."""
        self._fds += fds
        while len(self._fds) > _SCM_MAX_FD:
            os.close(self._fds.pop())
            self._fds_lost = True

    def send(self, message: WireMessage) -> None:
        """Send a message and its file descriptors, which stay the caller's.

        :raises ConnectionError: the peer has gone, or does not read (``never_block``).
        """
        if self._observer is not None:
            self._observer("->", message)
        data = message.pack()
        with self._send_lock:
            if self._shut:
                raise ConnectionResetError("the connection is closed")
            if not self._never_block:
                self._send_all(data, message.fds)
                return
            if self._writer is None:
                sent = self._send_now(data, message.fds)
                if sent == len(data):
                    return
                # The kernel took the descriptors with the first byte.
                self._put_aside(data[sent:], message.fds if sent == 0 else ())
            else:
                self._put_aside(data, message.fds)

    def _send_now(self, data: bytes, fds: Sequence[int]) -> int:
        """Send what fits into the socket, and return how many bytes that was."""
        try:
            if fds:
                return self._socket.sendmsg([data], _rights(fds), socket.MSG_DONTWAIT)
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def _send_all(self, data: bytes | bytearray, fds: Sequence[int]) -> None:
        sent = self._socket.sendmsg([data], _rights(fds)) if fds else 0
        if sent < len(data):
            self._socket.sendall(memoryview(data)[sent:])

    def _put_aside(self, data: bytes, fds: Sequence[int]) -> None:
        """Leave a message to the writer thread. The caller holds the lock."""
        size = self._backlog_size + len(data)
        if size > MAX_BACKLOG or self._backlog_fds + len(fds) > MAX_BACKLOG_FDS:
            self._cut_off()
            raise ConnectionAbortedError(f"the peer left {size} bytes unread")
        self._backlog_size = size
        last = self._backlog[-1] if self._backlog else None
        # A receiver takes descriptors for those of the last message that came with them.
        if last is not None and not fds and not last.fds and len(last.data) < _CHUNK:
            last.data += data
        else:
            try:
                self._backlog.append(_Chunk(bytearray(data), [os.dup(fd) for fd in fds]))
            except OSError:
                self._cut_off()  # part of a message may have been sent
                raise
            self._backlog_fds += len(fds)
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_backlog, name="vfio-user writer")
            self._writer.start()

    def _write_backlog(self) -> None:
        """Send the backlog, and end when there is none. The only sender while it runs."""
        while True:
            with self._send_lock:
                if not self._backlog:
                    self._writer = None
                    return
                chunk = self._backlog.popleft()
            with contextlib.suppress(OSError):  # the receiving thread sees the end as well
                self._send_all(chunk.data, chunk.fds)
            for fd in chunk.fds:
                os.close(fd)
            with self._send_lock:
                self._backlog_size -= len(chunk.data)
                self._backlog_fds -= len(chunk.fds)

    def _cut_off(self) -> None:
        """End the connection and drop what waits for the peer. The caller holds the lock."""
        self._shut = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        for chunk in self._backlog:
            self._backlog_size -= len(chunk.data)
            self._backlog_fds -= len(chunk.fds)
            for fd in chunk.fds:
                os.close(fd)
        self._backlog.clear()

    def shutdown(self) -> None:
        """End the connection: a thread in :meth:`receive` returns None, senders get an error."""
        if self._never_block:
            with self._send_lock:
                self._cut_off()
            return
        # Whoever holds the lock may be waiting for the peer: this is what ends the wait.
        self._shut = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection and release everything. Nothing may be in :meth:`receive` any more."""
        self.shutdown()
        if (writer := self._writer) is not None:
            writer.join()
        self._socket.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
