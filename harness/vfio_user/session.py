# Ref: QEMU docs/interop/vfio-user.rst, "vfio-user Protocol Specification" (QEMU 11.1).
"""The server's side of one vfio-user connection: negotiation, dispatch and replies.

What a client gets for an answer, decided in :meth:`Session.handle` and nowhere else:

========================================================  =======================================
what happened                                             reply
========================================================  =======================================
malformed payload, reserved bits, range outside a region  EINVAL
descriptors with a command that takes none, or lost ones  EINVAL
command before VERSION, or a second VERSION               EINVAL
protocol version of another major number                  ENOTSUP; another proposal may follow
command unknown, of migration, or of the other direction  ENOTSUP
more data than ``max_data_xfer_size``                     E2BIG
the device raised OSError                                 its errno, EIO if it has none
the device raised anything else                           EIO; recorded: the server fails at exit
========================================================  =======================================

A command with the no-reply bit is never answered; its error is logged. A reply that answers nothing
we asked is logged and dropped. None of these ends the connection. Only a size in a header that
cannot be right does (EINVAL first), because nobody knows where the next message begins.
"""

from __future__ import annotations

import enum
import errno
import logging
from collections.abc import Callable
from typing import Final

from harness.errors import ProtocolError
from harness.events.limited_log import LimitedLog
from harness.spec.vfio import (
    Command,
    DmaMapFlags,
    DmaUnmapFlags,
    MessageFlags,
    RegionFlags,
)
from harness.vfio_user import guest_memory, wire
from harness.vfio_user.channel import Channel, FramingError
from harness.vfio_user.description import Description
from harness.vfio_user.device import Device, Verdict
from harness.vfio_user.guest_memory import GuestMemory
from harness.vfio_user.interrupts import Interrupts
from harness.vfio_user.requests import Requests
from harness.vfio_user.transcript import Described
from harness.vfio_user.wire import Capabilities, WireMessage

log = logging.getLogger(__name__)

MAX_FDS: Final = 16
"""File descriptors taken in one message. QEMU refuses a server that names more."""

OWN_CAPABILITIES: Final = Capabilities(
    max_msg_fds=MAX_FDS,
    max_data_xfer_size=wire.MAX_DATA,
    max_dma_maps=guest_memory.MAX_MAPS,
    pgsizes=guest_memory.PAGE_SIZE,
    write_multiple=True,
)

# Plain numbers: arithmetic with enum members is slow, and this is done for every message.
_BAD_IN_COMMAND: Final = ~int(MessageFlags.NO_REPLY)
_VERSION: Final = int(Command.VERSION)
_TAKING_FDS: Final = (Command.DMA_MAP, Command.DMA_UNMAP, Command.DEVICE_SET_IRQS)
_MULTI_ENTRY: Final = wire.SingleWrite.FORMAT.size
_MULTI_DATA: Final = 8


class State(enum.Enum):
    """Where a session stands."""

    NEGOTIATING = "negotiating"
    """Only VERSION is taken."""
    READY = "ready"
    """A version is agreed and the device is attached."""
    CLOSED = "closed"
    """The client has gone."""


class Session:
    """One client's conversation with a device. Implements :class:`harness.vfio_user.device.Bus`.

    :param channel: made with ``never_block``; stays the caller's.
    :param direct_dma: access client memory in place where the client gives file descriptors; see
        :class:`GuestMemory` for when not to.
    :param defer: runs work on the device's worker thread.
    :param failed: told of exceptions that are the device's own fault.
    """

    def __init__(
        self,
        channel: Channel,
        device: Device,
        *,
        direct_dma: bool,
        defer: Callable[[Callable[[], None]], None],
        failed: Callable[[Exception], None],
    ):
        self.state = State.NEGOTIATING
        self.peer = Capabilities()
        self._log = LimitedLog(log)
        self._requests = Requests(channel.send)
        self.memory = GuestMemory(self._requests.read, self._requests.write, direct=direct_dma)
        self.interrupts = Interrupts(device.irqs, device.irqs_wanted)
        self._channel = channel
        self._device = device
        self._description = Description(device)
        # By region: bytes that may be read and written, as plain numbers for the hot paths.
        regions = self._description.regions
        self._readable = [r.size if r.flags & RegionFlags.READ else 0 for r in regions]
        self._writable = [r.size if r.flags & RegionFlags.WRITE else 0 for r in regions]
        self._defer = defer
        self._failed = failed
        self._handlers: dict[int, Callable[[WireMessage], WireMessage]] = {
            Command.VERSION: self._version,
            Command.DMA_MAP: self._dma_map,
            Command.DMA_UNMAP: self._dma_unmap,
            Command.DEVICE_GET_INFO: self._device_info,
            Command.DEVICE_GET_REGION_INFO: self._region_info,
            Command.DEVICE_GET_REGION_IO_FDS: self._region_io_fds,
            Command.DEVICE_GET_IRQ_INFO: self._irq_info,
            Command.DEVICE_SET_IRQS: self._set_irqs,
            Command.REGION_READ: self._region_read,
            Command.REGION_WRITE: self._region_write,
            Command.REGION_WRITE_MULTI: self._region_write_multi,
            Command.DEVICE_RESET: self._reset,
        }

    # The server's thread

    def run(self) -> None:
        """Serve the client until it has gone. What belongs to it is released on return."""
        try:
            while (message := self._channel.receive()) is not None:
                self.handle(message)
        except FramingError as error:
            self._log.log(logging.WARNING, "%s; closing the connection", error)
            self._reply(error.header, error.header.error_reply(errno.EINVAL))
        finally:
            self._end()

    def handle(self, message: WireMessage) -> None:
        """Take one message and answer it. The one place where exceptions become errnos."""
        try:
            if message.is_reply:
                if not self._requests.complete(message):
                    self._log.log(logging.WARNING, "a reply to nothing: %s", Described(message))
                return
            answer = self._dispatch(message)
        except OSError as error:
            answer = self._refuse(message, error.errno or errno.EIO, error)
        except ProtocolError as error:
            answer = self._refuse(message, errno.EINVAL, error)
        except Exception as error:
            self._failed(error)
            answer = self._refuse(message, errno.EIO, error)
        finally:
            if message.fds:
                message.close_fds()
        if message.wants_reply:
            self._reply(message, answer)

    def _dispatch(self, message: WireMessage) -> WireMessage:
        command = message.command
        if message.flags & _BAD_IN_COMMAND:
            raise ProtocolError(f"flags {message.flags:#x}")
        if message.fds_lost or len(message.fds) > MAX_FDS:
            raise ProtocolError(f"more file descriptors than the {MAX_FDS} that are taken")
        if message.fds and command not in _TAKING_FDS:
            raise ProtocolError("file descriptors with a command that takes none")
        handler = self._handlers.get(command)
        if handler is None:
            raise OSError(errno.ENOTSUP, f"{wire.command_name(command)} is not served")
        if (self.state is State.NEGOTIATING) != (command == _VERSION):
            raise ProtocolError(f"{wire.command_name(command)} while {self.state.value}")
        return handler(message)

    def _refuse(self, message: WireMessage, number: int, why: Exception) -> WireMessage:
        name = wire.errno_name(number)
        self._log.log(logging.INFO, "%s: %s: %s", Described(message), name, why)
        return message.error_reply(number)

    def _reply(self, message: WireMessage, answer: WireMessage) -> None:
        try:
            self._channel.send(answer)
        except OSError as error:  # its end is noticed in receive()
            self._log.log(logging.INFO, "no reply to %s: %s", Described(message), error)

    def _end(self) -> None:
        attached = self.state is State.READY
        self.state = State.CLOSED
        self._requests.close()
        if attached:
            try:
                self._device.detached()
            except Exception as error:
                self._failed(error)
        self.memory.clear()
        self.interrupts.close()

    # Commands

    def _version(self, message: WireMessage) -> WireMessage:
        proposed, data = wire.Version.unpack_head(message.payload)
        peer = Capabilities.unpack(data)
        if proposed.major != wire.MAJOR:
            raise OSError(errno.ENOTSUP, f"version {proposed.major}.{proposed.minor}")
        self.peer = peer
        self.state = State.READY
        self._requests.open(peer.max_data_xfer_size)
        self._device.attached(self)
        agreed = wire.Version(wire.MAJOR, min(proposed.minor, wire.MINOR)).pack()
        # The answer may only name what was proposed; who sent no data understands none.
        return message.reply(agreed + (OWN_CAPABILITIES.pack(peer.named) if data else b""))

    def _dma_map(self, message: WireMessage) -> WireMessage:
        request = wire.DmaMap.unpack(message.payload)
        if request.argsz != request.FORMAT.size or len(message.fds) > 1:
            raise ProtocolError(f"argsz {request.argsz}, {len(message.fds)} file descriptors")
        fd = message.fds[0] if message.fds else None
        self.memory.map(
            request.address, request.size, DmaMapFlags(request.flags), fd, request.offset
        )
        return message.reply()

    def _dma_unmap(self, message: WireMessage) -> WireMessage:
        request = wire.DmaUnmap.unpack_padded(message.payload)
        # The descriptor that the range was mapped with may come along once more. It says nothing.
        if request.argsz < request.FORMAT.size or len(message.fds) > 1:
            raise ProtocolError(f"argsz {request.argsz}, {len(message.fds)} file descriptors")
        if request.flags == DmaUnmapFlags.GET_DIRTY_BITMAP:
            raise OSError(errno.ENOTSUP, "there is no dirty page log")
        if request.flags == DmaUnmapFlags.ALL:
            if request.address or request.size:
                raise ProtocolError("a range to unmap, and all of them")
            self.memory.clear()
        elif request.flags:
            raise ProtocolError(f"DMA_UNMAP flags {request.flags:#x}")
        else:
            self.memory.unmap(request.address, request.size)
        return message.reply(request.pack())

    def _device_info(self, message: WireMessage) -> WireMessage:
        return message.reply(self._description.device_info(message.payload))

    def _region_info(self, message: WireMessage) -> WireMessage:
        max_fds = self.peer.max_msg_fds
        return message.reply(*self._description.region_info(message.payload, max_fds=max_fds))

    def _region_io_fds(self, message: WireMessage) -> WireMessage:
        return message.reply(self._description.region_io_fds(message.payload))

    def _irq_info(self, message: WireMessage) -> WireMessage:
        return message.reply(self._description.irq_info(message.payload))

    def _set_irqs(self, message: WireMessage) -> WireMessage:
        request, data = wire.IrqSet.unpack_head(message.payload)
        self.interrupts.set(request, data, message.fds)
        # A count of 0 was for the whole index.
        count = request.count or self._device.irqs[request.index].count
        self._device.irqs_changed(request.index, request.start, count)
        return message.reply()

    def _region_read(self, message: WireMessage) -> WireMessage:
        access = wire.RegionAccess.unpack(message.payload)
        self._check_access(access, self._readable)
        data = self._device.region_read(access.region, access.offset, access.count)
        if len(data) != access.count:
            raise ValueError(f"the device returned {len(data)} bytes for {access}")
        return message.reply(message.payload + data)

    def _region_write(self, message: WireMessage) -> WireMessage:
        access, data = wire.RegionAccess.unpack_head(message.payload)
        self._check_access(access, self._writable)
        if len(data) != access.count:
            raise ProtocolError(f"{len(data)} bytes of data for {access}")
        self._device.region_write(access.region, access.offset, data)
        return message.reply(message.payload[: access.FORMAT.size])

    def _region_write_multi(self, message: WireMessage) -> WireMessage:
        total, raw = wire.WriteCount.unpack_head(message.payload)
        if not total.count or len(raw) != total.count * _MULTI_ENTRY:
            raise ProtocolError(f"{len(raw)} bytes for {total.count} writes")
        entries = [
            wire.SingleWrite.unpack(raw[place : place + _MULTI_ENTRY])
            for place in range(0, len(raw), _MULTI_ENTRY)
        ]
        if any(entry.count > _MULTI_DATA for entry in entries):
            raise ProtocolError(f"a write of more than {_MULTI_DATA} bytes")
        for done, entry in enumerate(entries):
            access = wire.RegionAccess(entry.offset, entry.region, entry.count)
            try:
                self._check_access(access, self._writable)
                self._device.region_write(entry.region, entry.offset, entry.data[: entry.count])
            except (OSError, ProtocolError) as error:
                # As write(2): the error when nothing was done, else how much was.
                if not done:
                    raise
                text = "write %d of %d failed: %s"
                self._log.log(logging.INFO, text, done, total.count, error)
                return message.reply(wire.WriteCount(done).pack())
        return message.reply(total.pack())

    def _reset(self, message: WireMessage) -> WireMessage:
        if message.payload:
            raise ProtocolError("DEVICE_RESET has no payload")
        self._device.reset()
        return message.reply()

    @staticmethod
    def _check_access(access: wire.RegionAccess, limits: list[int]) -> None:
        if access.count > wire.MAX_DATA:
            raise OSError(errno.E2BIG, f"{access.count} bytes in one message")
        if access.region >= len(limits) or not access.count:
            raise ProtocolError(f"{access}")
        if access.offset + access.count > limits[access.region]:
            raise ProtocolError(f"{access}: {limits[access.region]} bytes may be accessed so")

    # The Bus

    def dma_read(self, address: int, count: int) -> bytes:
        """See :meth:`harness.vfio_user.device.Bus.dma_read`."""
        return self.memory.read(address, count)

    def dma_write(self, address: int, data: bytes) -> None:
        """See :meth:`harness.vfio_user.device.Bus.dma_write`."""
        self.memory.write(address, data)

    def send_message(self, address: int, data: int) -> Verdict:
        """See :meth:`harness.vfio_user.device.Bus.send_message`."""
        payload = wire.DmaAccess(address, 4).pack() + data.to_bytes(4, "little")
        return self._requests.ask(Command.DMA_WRITE, payload)

    def irq_is_wired(self, index: int, vector: int) -> bool:
        """See :meth:`harness.vfio_user.device.Bus.irq_is_wired`."""
        return self.interrupts.is_wired(index, vector)

    def trigger_irq(self, index: int, vector: int) -> bool:
        """See :meth:`harness.vfio_user.device.Bus.trigger_irq`."""
        return self.interrupts.trigger(index, vector)

    def defer(self, work: Callable[[], None]) -> None:
        """See :meth:`harness.vfio_user.device.Bus.defer`."""
        self._defer(work)
