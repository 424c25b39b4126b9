"""The messages of a connection: as events, and decoded, as a human reads them."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import ClassVar, Final

from harness.errors import ProtocolError
from harness.events.stream import Event, Writer, now
from harness.spec.vfio import Command, MessageFlags
from harness.vfio_user import wire
from harness.vfio_user.channel import Observer
from harness.vfio_user.wire import WireMessage

log = logging.getLogger(__name__)

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


@dataclass(frozen=True, slots=True)
class Exchanged(Event):
    """A message that passed over a connection, decoded when read."""

    LIMIT: ClassVar[int] = 32 << 20
    BYTES: ClassVar[int] = 400

    direction: str
    """``"<-"``: received, ``"->"``: sent."""
    message: WireMessage
    """No more of its payload than :func:`describe` shows."""

    def held(self) -> int:
        """Return the bytes that this takes."""
        return self.BYTES + len(self.message.payload)

    def __str__(self) -> str:
        return f"{self.direction} {describe(self.message)}"


def observer(writer: Writer | None) -> Observer | None:
    """Return what a channel is to tell of its messages, None when nobody listens.

    It writes them into the stream, and logs them at DEBUG.
    """
    logged = log.isEnabledFor(logging.DEBUG)
    if writer is None and not logged:
        return None

    def observe(direction: str, message: WireMessage) -> None:
        if logged:
            log.debug("%s %s", direction, Described(message))
        if writer is not None:
            # Descriptors are taken out of a message, and a long one is not worth its memory.
            if message.fds or len(message.payload) > _SHOWN_PAYLOAD:
                message = shortened(message)
            writer.stream.write(Exchanged(now(), writer.source, direction, message))

    return observe
