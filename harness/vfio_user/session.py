# Ref: QEMU docs/interop/vfio-user.rst, "vfio-user Protocol Specification" (QEMU 11.1).
"""The server's side of one vfio-user connection: negotiation, dispatch, and requests to the client.

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
import itertools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from harness.errors import ProtocolError
from harness.host.deadline import Deadline
from harness.spec.vfio import (
    Command,
    DeviceFlags,
    DmaMapFlags,
    DmaUnmapFlags,
    MessageFlags,
    RegionFlags,
)
from harness.vfio_user import guest_memory, wire
from harness.vfio_user.channel import Channel, FramingError
from harness.vfio_user.device import Device, Region
from harness.vfio_user.guest_memory import GuestMemory
from harness.vfio_user.interrupts import Interrupts
from harness.vfio_user.wire import Capabilities, Message

log = logging.getLogger(__name__)

MAX_FDS: Final = 16
"""File descriptors taken in one message. QEMU refuses a server that names more."""

ANSWER_SECONDS: Final = 30.0
"""How long the client may take over a DMA message."""

LARGEST_DMA: Final = 64 << 10
"""Bytes of client memory asked for in one message, if the client's limit is not lower.

QEMU 11.1 sends a reply with one non-blocking write and takes a partial one for a whole one
(hw/vfio-user/proxy.c, vfio_user_send_qio()): what does not fit into a socket buffer is lost.
"""

MAX_REQUESTS: Final = 1 << 15
"""Messages to the client that may wait for an answer; ids have 16 bits."""

OWN_CAPABILITIES: Final = Capabilities(
    max_msg_fds=MAX_FDS,
    max_data_xfer_size=wire.MAX_DATA,
    max_dma_maps=guest_memory.MAX_MAPS,
    pgsizes=guest_memory.PAGE_SIZE,
    write_multiple=True,
)

# Plain numbers: arithmetic with enum members is slow, and this is done for every message.
_ERROR: Final = int(MessageFlags.ERROR)
_BAD_IN_COMMAND: Final = ~int(MessageFlags.NO_REPLY)
_VERSION: Final = int(Command.VERSION)
_TAKING_FDS: Final = (Command.DMA_MAP, Command.DEVICE_SET_IRQS)
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
        self.memory = GuestMemory(self._ask_read, self._ask_write, direct=direct_dma)
        self.interrupts = Interrupts(device.irqs)
        self._channel = channel
        self._device = device
        self._regions = tuple(device.regions)
        # By region: bytes that may be read and written, as plain numbers for the hot paths.
        self._readable = [r.size if r.flags & RegionFlags.READ else 0 for r in self._regions]
        self._writable = [r.size if r.flags & RegionFlags.WRITE else 0 for r in self._regions]
        self._defer = defer
        self._failed = failed
        self._thread: threading.Thread | None = None
        self._pending_lock = threading.Lock()
        self._pending: dict[int, tuple[int, Future[bytes]]] = {}
        self._ids = itertools.count()
        self._handlers: dict[int, Callable[[Message], Message]] = {
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
        self._thread = threading.current_thread()
        try:
            while (message := self._channel.receive()) is not None:
                self.handle(message)
        except FramingError as error:
            log.warning("%s; closing the connection", error)
            self._reply(error.header, error.header.error_reply(errno.EINVAL))
        finally:
            self._end()

    def handle(self, message: Message) -> None:
        """Take one message and answer it. The one place where exceptions become errnos."""
        try:
            if message.is_reply:
                self._complete(message)
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

    def _dispatch(self, message: Message) -> Message:
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

    @staticmethod
    def _refuse(message: Message, number: int, why: Exception) -> Message:
        log.info("%s: %s: %s", wire.describe(message), wire.errno_name(number), why)
        return message.error_reply(number)

    def _reply(self, message: Message, answer: Message) -> None:
        try:
            self._channel.send(answer)
        except OSError as error:  # its end is noticed in receive()
            log.info("no reply to %s: %s", wire.describe(message), error)

    def _end(self) -> None:
        attached = self.state is State.READY
        with self._pending_lock:
            self.state = State.CLOSED
            orphans = list(self._pending.values())
            self._pending.clear()
        gone = ConnectionResetError(errno.ECONNRESET, "the client has gone")
        for _, future in orphans:
            future.set_exception(gone)
        if attached:
            try:
                self._device.detached()
            except Exception as error:
                self._failed(error)
        self.memory.clear()
        self.interrupts.close()

    # Commands

    def _version(self, message: Message) -> Message:
        proposed, data = wire.Version.unpack_head(message.payload)
        peer = Capabilities.unpack(data)
        if proposed.major != wire.MAJOR:
            raise OSError(errno.ENOTSUP, f"version {proposed.major}.{proposed.minor}")
        self.peer = peer
        self.state = State.READY
        self._device.attached(self)
        agreed = wire.Version(wire.MAJOR, min(proposed.minor, wire.MINOR)).pack()
        # The answer may only name what was proposed; who sent no data understands none.
        return message.reply(agreed + (OWN_CAPABILITIES.pack(peer.named) if data else b""))

    def _dma_map(self, message: Message) -> Message:
        request = wire.DmaMap.unpack(message.payload)
        if request.argsz != request.FORMAT.size or len(message.fds) > 1:
            raise ProtocolError(f"argsz {request.argsz}, {len(message.fds)} file descriptors")
        fd = message.fds[0] if message.fds else None
        self.memory.map(
            request.address, request.size, DmaMapFlags(request.flags), fd, request.offset
        )
        return message.reply()

    def _dma_unmap(self, message: Message) -> Message:
        request = wire.DmaUnmap.unpack(message.payload)
        if request.argsz < request.FORMAT.size:
            raise ProtocolError(f"argsz {request.argsz}")
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
        return message.reply(message.payload)

    def _device_info(self, message: Message) -> Message:
        request = wire.DeviceInfo.unpack(message.payload)
        if request.argsz < request.FORMAT.size or request != wire.DeviceInfo(request.argsz):
            raise ProtocolError(f"{request}")
        flags = DeviceFlags.RESET | DeviceFlags.PCI
        info = wire.DeviceInfo(
            request.FORMAT.size, flags, len(self._regions), len(self._device.irqs)
        )
        return message.reply(info.pack())

    def _region_info(self, message: Message) -> Message:
        request = wire.RegionInfo.unpack(message.payload)
        size = request.FORMAT.size
        if request.argsz < size or request != wire.RegionInfo(request.argsz, 0, request.index):
            raise ProtocolError(f"{request}")
        region = self._region(request.index)
        flags = region.flags & (RegionFlags.READ | RegionFlags.WRITE)
        capability, fds = b"", []
        if region.fd is not None and region.mappable and self.peer.max_msg_fds:
            flags |= RegionFlags.MMAP
            fds = [region.fd]
            if [(area.offset, area.size) for area in region.mappable] != [(0, region.size)]:
                flags |= RegionFlags.CAPS
                capability = wire.pack_sparse_mmap(region.mappable)
        argsz = size + len(capability)
        if request.argsz < argsz:
            # The client learns the size it needs, asks again, and gets the descriptor then.
            capability, fds = b"", []
        cap_offset = size if capability else 0
        info = wire.RegionInfo(
            argsz, flags, request.index, cap_offset, region.size, region.fd_offset
        )
        return message.reply(info.pack() + capability, fds)

    def _region_io_fds(self, message: Message) -> Message:
        request = wire.RegionIoFds.unpack(message.payload)
        size = request.FORMAT.size
        if request.argsz < size or request != wire.RegionIoFds(request.argsz, 0, request.index):
            raise ProtocolError(f"{request}")
        self._region(request.index)
        # No sub-region has an ioeventfd or ioregionfd: every access comes as a message.
        return message.reply(wire.RegionIoFds(size, 0, request.index, 0).pack())

    def _irq_info(self, message: Message) -> Message:
        request = wire.IrqInfo.unpack(message.payload)
        size = request.FORMAT.size
        if request.argsz < size or request != wire.IrqInfo(request.argsz, 0, request.index):
            raise ProtocolError(f"{request}")
        irqs = self._device.irqs
        if request.index >= len(irqs):
            raise ProtocolError(f"no interrupt index {request.index}")
        irq = irqs[request.index]
        return message.reply(wire.IrqInfo(size, irq.flags, request.index, irq.count).pack())

    def _set_irqs(self, message: Message) -> Message:
        request, data = wire.IrqSet.unpack_head(message.payload)
        self.interrupts.set(request, data, message.fds)
        # A count of 0 was for the whole index.
        count = request.count or self._device.irqs[request.index].count
        self._device.irqs_changed(request.index, request.start, count)
        return message.reply()

    def _region_read(self, message: Message) -> Message:
        access = wire.RegionAccess.unpack(message.payload)
        self._check_access(access, self._readable)
        data = self._device.region_read(access.region, access.offset, access.count)
        if len(data) != access.count:
            raise ValueError(f"the device returned {len(data)} bytes for {access}")
        return message.reply(message.payload + data)

    def _region_write(self, message: Message) -> Message:
        access, data = wire.RegionAccess.unpack_head(message.payload)
        self._check_access(access, self._writable)
        if len(data) != access.count:
            raise ProtocolError(f"{len(data)} bytes of data for {access}")
        self._device.region_write(access.region, access.offset, data)
        return message.reply(message.payload[: access.FORMAT.size])

    def _region_write_multi(self, message: Message) -> Message:
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
                log.info("write %d of %d failed: %s", done, total.count, error)
                return message.reply(wire.WriteCount(done).pack())
        return message.reply(total.pack())

    def _reset(self, message: Message) -> Message:
        if message.payload:
            raise ProtocolError("DEVICE_RESET has no payload")
        self._device.reset()
        return message.reply()

    def _region(self, index: int) -> Region:
        if index >= len(self._regions):
            raise ProtocolError(f"no region {index}")
        return self._regions[index]

    @staticmethod
    def _check_access(access: wire.RegionAccess, limits: list[int]) -> None:
        if access.count > wire.MAX_DATA:
            raise OSError(errno.E2BIG, f"{access.count} bytes in one message")
        if access.region >= len(limits) or not access.count:
            raise ProtocolError(f"{access}")
        if access.offset + access.count > limits[access.region]:
            raise ProtocolError(f"{access}: {limits[access.region]} bytes may be accessed so")

    # Requests to the client, from any thread

    def _request(self, command: Command, payload: bytes) -> Future[bytes]:
        """Send a command; the future ends on the server's thread with the answer's payload.

        It ends with ``OSError``: the client's errno, or ``ConnectionError`` when there is no
        client.
        """
        future: Future[bytes] = Future()
        future.set_running_or_notify_cancel()  # no one may cancel what the client answers
        with self._pending_lock:
            if self.state is not State.READY:
                future.set_exception(ConnectionResetError(errno.ECONNRESET, "there is no client"))
                return future
            if len(self._pending) >= MAX_REQUESTS:
                future.set_exception(OSError(errno.EBUSY, "the client leaves too much unanswered"))
                return future
            ident = next(i for n in self._ids if (i := n & 0xFFFF) not in self._pending)
            self._pending[ident] = (command, future)
        try:
            self._channel.send(Message(ident, command, 0, payload))
        except OSError as error:
            with self._pending_lock:
                waiting = self._pending.pop(ident, None)
            if waiting is not None:
                future.set_exception(error)
        return future

    def _complete(self, message: Message) -> None:
        """End the future of the request that this answers."""
        with self._pending_lock:
            command, future = self._pending.get(message.id, (None, None))
            if future is None or command != message.command:
                log.warning("a reply to nothing: %s", wire.describe(message))
                return
            del self._pending[message.id]
        if message.flags & _ERROR:
            number = message.error or errno.EIO
            future.set_exception(
                OSError(number, f"{wire.command_name(message.command)} refused by the client")
            )
        else:
            future.set_result(message.payload)

    def _wait(self, command: Command, payload: bytes) -> bytes:
        if threading.current_thread() is self._thread:
            raise RuntimeError(f"{command.name} on the server's thread would wait for itself")
        deadline = Deadline(ANSWER_SECONDS, f"the client's answer to {command.name}")
        future = self._request(command, payload)
        try:
            return future.result(deadline.remaining())
        except TimeoutError:
            if not future.done():
                raise deadline.error() from None
            raise

    def _pieces(self, address: int, count: int) -> list[wire.DmaAccess]:
        largest = min(self.peer.max_data_xfer_size, LARGEST_DMA)
        return [
            wire.DmaAccess(address + done, min(largest, count - done))
            for done in range(0, count, largest)
        ]

    def _ask_read(self, address: int, count: int) -> bytes:
        result = bytearray()
        for access in self._pieces(address, count):
            answer, data = wire.DmaAccess.unpack_head(self._wait(Command.DMA_READ, access.pack()))
            if len(data) < access.count:
                raise OSError(errno.EPROTO, f"{len(data)} bytes for {access}: {answer}")
            result += data[: access.count]
        return bytes(result)

    def _ask_write(self, address: int, data: bytes) -> None:
        for access in self._pieces(address, len(data)):
            place = access.address - address
            self._wait(Command.DMA_WRITE, access.pack() + data[place : place + access.count])

    # The Bus

    def dma_read(self, address: int, count: int) -> bytes:
        """See :meth:`harness.vfio_user.device.Bus.dma_read`."""
        return self.memory.read(address, count)

    def dma_write(self, address: int, data: bytes) -> None:
        """See :meth:`harness.vfio_user.device.Bus.dma_write`."""
        self.memory.write(address, data)

    def send_message(self, address: int, data: int) -> Future[None]:
        """See :meth:`harness.vfio_user.device.Bus.send_message`."""
        payload = wire.DmaAccess(address, 4).pack() + data.to_bytes(4, "little")
        verdict: Future[None] = Future()
        verdict.set_running_or_notify_cancel()

        def answered(reply: Future[bytes]) -> None:
            error = reply.exception()
            verdict.set_result(None) if error is None else verdict.set_exception(error)

        self._request(Command.DMA_WRITE, payload).add_done_callback(answered)
        return verdict

    def irq_is_wired(self, index: int, vector: int) -> bool:
        """See :meth:`harness.vfio_user.device.Bus.irq_is_wired`."""
        return self.interrupts.is_wired(index, vector)

    def trigger_irq(self, index: int, vector: int) -> bool:
        """See :meth:`harness.vfio_user.device.Bus.trigger_irq`."""
        return self.interrupts.trigger(index, vector)

    def defer(self, work: Callable[[], None]) -> None:
        """See :meth:`harness.vfio_user.device.Bus.defer`."""
        self._defer(work)
