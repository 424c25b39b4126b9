"""What messages look like to a human: decoded, in one line, and the file of a whole connection."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

from harness.errors import ProtocolError
from harness.spec.vfio import Command, MessageFlags
from harness.vfio_user import wire
from harness.vfio_user.channel import Observer
from harness.vfio_user.wire import WireMessage

log = logging.getLogger(__name__)

TRANSCRIPT_HEAD: Final = 100_000
"""Messages that a transcript file holds from the start of the connection."""
TRANSCRIPT_TAIL: Final = 20_000
"""Messages that it holds from the end, when there were more."""
SHOWN_DATA: Final = 32
"""Bytes of data that :func:`describe` prints."""
SHOWN_TEXT: Final = 512
"""The same where the data is text."""

_ERROR: Final = int(MessageFlags.ERROR)
_HEADS: Final[dict[int, type[wire.Payload]]] = {
    Command.VERSION: wire.Version,
    Command.DMA_MAP: wire.DmaMap,
    Command.DMA_UNMAP: wire.DmaUnmap,
    Command.DEVICE_GET_INFO: wire.DeviceInfo,
    Command.DEVICE_GET_REGION_INFO: wire.RegionInfo,
    Command.DEVICE_GET_REGION_IO_FDS: wire.RegionIoFds,
    Command.DEVICE_GET_IRQ_INFO: wire.IrqInfo,
    Command.DEVICE_SET_IRQS: wire.IrqSet,
    Command.REGION_READ: wire.RegionAccess,
    Command.REGION_WRITE: wire.RegionAccess,
    Command.DMA_READ: wire.DmaAccess,
    Command.DMA_WRITE: wire.DmaAccess,
    Command.REGION_WRITE_MULTI: wire.WriteCount,
}
# More than any other head takes with its data.
_SHOWN_PAYLOAD: Final = SHOWN_TEXT + wire.Version.FORMAT.size
_IN_DECIMAL: Final = ("argsz", "count", "index", "region", "start", "major", "minor")


def shortened(message: WireMessage) -> WireMessage:
    """Return a copy that keeps no more of the payload than :func:`describe` shows."""
    kept = message.payload[:_SHOWN_PAYLOAD]
    fds = list(message.fds)
    left_out = len(message.payload) - len(kept)
    return WireMessage(
        message.id,
        message.command,
        message.flags,
        kept,
        message.error,
        fds,
        message.fds_lost,
        left_out,
    )


def describe(message: WireMessage) -> str:
    """Return one line that says what a message is, decoded, and bounded in length."""
    parts = [f"{message.id:04x} {wire.command_name(message.command)}"]
    if message.is_reply:
        parts.append("reply")
    if message.flags & _ERROR:
        parts.append(f"error={wire.errno_name(message.error)}")
    rest = message.payload
    head = _HEADS.get(message.command)
    if head is not None:
        with contextlib.suppress(ProtocolError):  # short: shown as bytes
            decoded, rest = head.unpack_head(rest)
            for name in head.__slots__:
                value = getattr(decoded, name)
                parts.append(f"{name}={value if name in _IN_DECIMAL else hex(value)}")
    if rest:
        size = len(rest) + message.left_out
        more = f"... {size} bytes" if size > SHOWN_DATA else ""
        is_text = message.command == Command.VERSION
        shown = repr(rest[:SHOWN_TEXT]) if is_text else rest[:SHOWN_DATA].hex()
        parts.append(f"data={shown}{more}")
    if message.fds:
        parts.append(f"fds={len(message.fds)}")
    if message.fds_lost:
        parts.append("(fds lost)")
    if not message.wants_reply:
        parts.append("(no reply)")
    return " ".join(parts)


class Described:
    """A message that is decoded only if a log handler wants its text."""

    def __init__(self, message: WireMessage):
        self._message = message

    def __str__(self) -> str:
        return describe(self._message)


class Transcript:
    """Every message of a connection, decoded: to the logger at DEBUG, and to a file if given.

    The file has the first ``TRANSCRIPT_HEAD`` messages as they happen; of what follows only the
    last ``TRANSCRIPT_TAIL`` are kept, and decoded when the connection is closed. When it cannot be
    written (the disk is full) it ends there, and the server goes on.

    :param path: the file, which is replaced; None: there is none.
    """

    def __init__(self, path: Path | None):
        # Line-buffered: what was said is there when the harness is killed.
        self._file = path.open("w", buffering=1) if path else None
        self._count = 0
        self._start = time.monotonic()
        self._tail: deque[tuple[float, str, WireMessage]] = deque(maxlen=TRANSCRIPT_TAIL)
        self._lock = threading.Lock()

    def observer(self) -> Observer | None:
        """Return what a channel is to call, None when nothing listens: then it costs nothing."""
        return self._observe if self._file or log.isEnabledFor(logging.DEBUG) else None

    def _observe(self, direction: str, message: WireMessage) -> None:
        log.debug("%s %s", direction, Described(message))
        if self._file is None:
            return
        now = time.monotonic() - self._start
        with self._lock:
            self._count += 1
            if self._count <= TRANSCRIPT_HEAD:
                self._write(f"{now:12.6f} {direction} {describe(message)}\n")
            else:
                self._tail.append((now, direction, shortened(message)))

    def _write(self, line: str) -> None:
        if self._file is None:
            return
        try:
            self._file.write(line)
        except OSError as error:
            log.warning("the transcript ends after %d messages: %s", self._count, error)
            with contextlib.suppress(OSError):  # what it could not write, again
                self._file.close()
            self._file = None

    def close(self) -> None:
        """Write what was kept for the end, and say what is missing."""
        if self._file is None:
            return
        left_out = self._count - TRANSCRIPT_HEAD - len(self._tail)
        if left_out > 0:
            self._write(f"... {left_out} messages left out ...\n")
        for now, direction, message in self._tail:
            self._write(f"{now:12.6f} {direction} {describe(message)}\n")
        if self._file is not None:
            self._file.close()
