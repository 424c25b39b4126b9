# Ref: QEMU docs/interop/vfio-user.rst, "vfio-user Protocol Specification" (QEMU 11.1).
"""A vfio-user client: poke a device with no VM.

    with device_server(device, server_end), Client(client_end) as client:
        client.region_write(0, 0x10, b"\\1\\0\\0\\0")
        memory = client.map_shared(0x100000, 4096)     # the device may DMA here

Calls are synchronous and may come from any thread, one after another. What the server asks for
meanwhile (DMA by messages, which is also how a device sends interrupt messages) is answered by the
calling thread while it waits for its own reply, and by the client's idle thread between calls.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import mmap
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from harness.errors import ProtocolError
from harness.host.deadline import Deadline
from harness.spec.vfio import (
    Command,
    DmaMapFlags,
    DmaUnmapFlags,
    IrqInfoFlags,
    IrqSetFlags,
    MessageFlags,
    RegionFlags,
)
from harness.vfio_user import wire
from harness.vfio_user.channel import Channel, Observer
from harness.vfio_user.device import IrqIndex, MappableArea, Region
from harness.vfio_user.wire import Capabilities, Message

log = logging.getLogger(__name__)

CAPABILITIES: Final = Capabilities(max_msg_fds=16, write_multiple=True)
"""What a client proposes unless told otherwise."""

ANSWER_SECONDS: Final = 30.0
"""How long the server may take over a reply."""

DmaRead = Callable[[int, int], bytes]
DmaWrite = Callable[[int, bytes], None]

_NO_REPLY: Final = int(MessageFlags.NO_REPLY)
_ERROR: Final = int(MessageFlags.ERROR)
_ARMED: Final = select.EPOLLIN | select.EPOLLONESHOT
_READ_WRITE: Final = DmaMapFlags.READ | DmaMapFlags.WRITE


@dataclass(frozen=True, slots=True)
class _Range:
    """Client memory that DMA messages may reach."""

    address: int
    memory: bytearray | mmap.mmap
    flags: DmaMapFlags

    def holds(self, address: int, count: int) -> bool:
        return self.address <= address and address + count <= self.address + len(self.memory)


class Client:
    """A connected client. Owns the connection; a context manager that disconnects.

    :param dma_read: answers the server's DMA_READ (address, count) outside of the memory given with
        :meth:`map_shared` and :meth:`map_served`; an OSError it raises is the server's answer.
    :param dma_write: the same for DMA_WRITE (address, data). Interrupt messages come here.
    :param capabilities: what is proposed; None: VERSION is not sent, the caller does.
    :raises OSError: the server refused the version.

    Each call raises ``OSError`` with the server's errno when it is refused, ``ConnectionError``
    when the server has gone, and ``DeadlineExpired`` when there is no reply in time.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        dma_read: DmaRead | None = None,
        dma_write: DmaWrite | None = None,
        capabilities: Capabilities | None = CAPABILITIES,
        observer: Observer | None = None,
    ):
        self.peer = Capabilities()
        self._deadline = Deadline(ANSWER_SECONDS, "the vfio-user server's reply")
        # Kept by the kernel: a wait that is bounded at the cost of no system call.
        limit = struct.pack("@ll", int(self._deadline.seconds) + 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._channel = Channel(connection, observer=observer)
        self._dma_read = dma_read
        self._dma_write = dma_write
        self._ids = itertools.count()
        self._ranges: list[_Range] = []
        self._mapped: list[mmap.mmap] = []
        self._failure: Exception | None = None
        self._lock = threading.Lock()  # held by the thread that receives
        self._gone = False
        self._epoll = select.epoll()
        self._epoll.register(self._channel.fileno(), 0)
        self._idle = threading.Thread(target=self._serve_idle, name="vfio-user client")
        self._idle.start()
        try:
            if capabilities is not None:
                self.negotiate(capabilities)
        except BaseException:
            self.close()
            raise

    # Connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if error is None and self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Disconnect and release everything, memory that was mapped here too."""
        self._gone = True
        self._channel.shutdown()
        self._idle.join()
        self._channel.close()
        self._epoll.close()
        for mapped in self._mapped:
            mapped.close()
        self._mapped.clear()
        self._ranges.clear()

    def negotiate(
        self,
        capabilities: Capabilities = CAPABILITIES,
        *,
        major: int = wire.MAJOR,
        minor: int = wire.MINOR,
    ) -> wire.Version:
        """Propose a version; return the one agreed. ``peer`` are the server's capabilities then."""
        proposal = wire.Version(major, minor).pack() + capabilities.pack()
        reply = self.call(Command.VERSION, proposal)
        version, data = wire.Version.unpack_head(reply.payload)
        self.peer = Capabilities.unpack(data)
        return version

    def call(
        self, command: int, payload: bytes = b"", fds: Sequence[int] = (), *, flags: int = 0
    ) -> Message:
        """Send a command as it is given and return the reply, whose descriptors are the caller's.

        :raises OSError: the reply is an error, ``errno`` says which; ``ConnectionError`` when the
            server has gone.
        :raises DeadlineExpired: there was no reply in time.
        """
        with self._lock:
            ident = self._post(command, payload, fds, flags)
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

    def _post(self, command: int, payload: bytes, fds: Sequence[int], flags: int) -> int:
        self._arm(0)
        ident = next(self._ids) & 0xFFFF
        self._channel.send(Message(ident, command, flags, payload, 0, list(fds)))
        return ident

    def _receive(self) -> Message:
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

    def _serve(self, message: Message) -> None:
        """Answer one request of the server."""
        message.close_fds()
        if message.is_reply:
            log.warning("a reply to nothing: %s", wire.describe(message))
            return
        try:
            answer = message.reply(self._answer(message))
        except OSError as error:
            answer = message.error_reply(error.errno or errno.EIO)
        except ProtocolError as error:
            log.warning("%s: %s", wire.describe(message), error)
            answer = message.error_reply(errno.EINVAL)
        except Exception as error:
            self._failure = self._failure or error
            answer = message.error_reply(errno.EIO)
        if message.wants_reply:
            self._channel.send(answer)

    def _answer(self, message: Message) -> bytes:
        if message.command not in (Command.DMA_READ, Command.DMA_WRITE):
            raise OSError(errno.ENOTSUP, f"{wire.command_name(message.command)} is not served")
        access, data = wire.DmaAccess.unpack_head(message.payload)
        if access.count > wire.MAX_DATA:
            raise OSError(errno.E2BIG, f"{access}")
        if len(data) != (access.count if message.command == Command.DMA_WRITE else 0):
            raise ProtocolError(f"{len(data)} bytes of data with {access}")
        if message.command == Command.DMA_READ:
            return access.pack() + self._read_memory(access.address, access.count)
        self._write_memory(access.address, data)
        return access.pack()

    def _read_memory(self, address: int, count: int) -> bytes:
        for held in self._ranges:
            if held.holds(address, count):
                if not held.flags & DmaMapFlags.READ:
                    raise OSError(errno.EPERM, f"{address:#x} is not readable")
                return bytes(held.memory[address - held.address :][:count])
        if self._dma_read is None:
            raise OSError(errno.EFAULT, f"nothing at {address:#x}")
        return self._dma_read(address, count)

    def _write_memory(self, address: int, data: bytes) -> None:
        for held in self._ranges:
            if held.holds(address, len(data)):
                if not held.flags & DmaMapFlags.WRITE:
                    raise OSError(errno.EPERM, f"{address:#x} is not writeable")
                offset = address - held.address
                held.memory[offset : offset + len(data)] = data
                return
        if self._dma_write is None:
            raise OSError(errno.EFAULT, f"nothing at {address:#x}")
        self._dma_write(address, data)

    # Memory

    def dma_map(
        self,
        address: int,
        size: int,
        *,
        fd: int | None = None,
        offset: int = 0,
        flags: DmaMapFlags = _READ_WRITE,
    ) -> None:
        """Tell the server of a range; ``dma_read`` and ``dma_write`` answer for it."""
        request = wire.DmaMap(wire.DmaMap.FORMAT.size, flags, offset, address, size)
        self.call(Command.DMA_MAP, request.pack(), [] if fd is None else [fd])

    def map_shared(self, address: int, size: int, *, flags: DmaMapFlags = _READ_WRITE) -> mmap.mmap:
        """Give the server new memory that it can map itself; return it. Closed with the client."""
        fd = os.memfd_create("vfio-user client")
        try:
            os.ftruncate(fd, size)
            memory = mmap.mmap(fd, size)
            self._mapped.append(memory)
            self.dma_map(address, size, fd=fd, flags=flags)
        finally:
            os.close(fd)
        self._ranges.append(_Range(address, memory, flags))
        return memory

    def map_served(
        self, address: int, memory: bytearray, *, flags: DmaMapFlags = _READ_WRITE
    ) -> None:
        """Give the server memory that it reaches by messages only. It stays the caller's."""
        self.dma_map(address, len(memory), flags=flags)
        self._ranges.append(_Range(address, memory, flags))

    def dma_unmap(self, address: int, size: int) -> None:
        """Take a range away."""
        self._unmap(address, size, 0)
        end = address + size
        self._ranges = [r for r in self._ranges if not address <= r.address < end]

    def dma_unmap_all(self) -> None:
        """Take every range away."""
        self._unmap(0, 0, DmaUnmapFlags.ALL)
        self._ranges = []

    def _unmap(self, address: int, size: int, flags: int) -> None:
        request = wire.DmaUnmap(wire.DmaUnmap.FORMAT.size, flags, address, size)
        self.call(Command.DMA_UNMAP, request.pack())

    # Device and regions

    def device_info(self) -> wire.DeviceInfo:
        """Return how many regions and interrupt indices the device has."""
        request = wire.DeviceInfo(wire.DeviceInfo.FORMAT.size)
        return wire.DeviceInfo.unpack(self.call(Command.DEVICE_GET_INFO, request.pack()).payload)

    def region_info(self, index: int) -> Region:
        """Return what the server says of a region, without its file descriptor."""
        region, fd = self._region_info(index)
        if fd is not None:
            os.close(fd)
        return region

    def _region_info(self, index: int) -> tuple[Region, int | None]:
        argsz = wire.RegionInfo.FORMAT.size
        while True:
            request = wire.RegionInfo(argsz, index=index)
            reply = self.call(Command.DEVICE_GET_REGION_INFO, request.pack())
            info, _ = wire.RegionInfo.unpack_head(reply.payload)
            if info.argsz <= argsz:
                break
            reply.close_fds()
            argsz = info.argsz
        flags = RegionFlags(info.flags)
        areas = None
        if flags & RegionFlags.CAPS:
            areas = wire.unpack_sparse_mmap(reply.payload, info.cap_offset)
        if areas is None:
            areas = (MappableArea(0, info.size),) if flags & RegionFlags.MMAP else ()
        fd = reply.fds.pop() if reply.fds else None
        reply.close_fds()
        return Region(info.size, flags, areas, None, info.offset), fd

    def map_region(self, index: int) -> dict[int, mmap.mmap]:
        """Map what can be mapped of a region: offset to pages. They are closed with the client."""
        region, fd = self._region_info(index)
        if fd is None:
            return {}
        try:
            pages = {
                area.offset: mmap.mmap(fd, area.size, offset=region.fd_offset + area.offset)
                for area in region.mappable
            }
        finally:
            os.close(fd)
        self._mapped += pages.values()
        return pages

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        """Return ``count`` bytes of a region.

        :raises OSError: the device or the server refused.
        """
        request = wire.RegionAccess(offset, region, count).pack()
        return self.call(Command.REGION_READ, request).payload[len(request) :]

    def region_write(self, region: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        """Write to a region; posted: return at once, whatever becomes of it.

        :raises OSError: the device or the server refused (never when posted).
        """
        payload = wire.RegionAccess(offset, region, len(data)).pack() + data
        if posted:
            ident = next(self._ids) & 0xFFFF
            self._channel.send(Message(ident, Command.REGION_WRITE, _NO_REPLY, payload))
        else:
            self.call(Command.REGION_WRITE, payload)

    def region_write_multi(
        self, writes: Iterable[tuple[int, int, bytes]], *, posted: bool = False
    ) -> int:
        """Do several writes (region, offset, up to 8 bytes) at once; return how many were done.

        :raises OSError: the first one was refused (never when posted).
        """
        entries = [
            wire.SingleWrite(offset, region, len(data), data.ljust(8, b"\0")).pack()
            for region, offset, data in writes
        ]
        payload = wire.WriteCount(len(entries)).pack() + b"".join(entries)
        if posted:
            ident = next(self._ids) & 0xFFFF
            self._channel.send(Message(ident, Command.REGION_WRITE_MULTI, _NO_REPLY, payload))
            return len(entries)
        return wire.WriteCount.unpack(self.call(Command.REGION_WRITE_MULTI, payload).payload).count

    def reset(self) -> None:
        """Reset the device."""
        self.call(Command.DEVICE_RESET)

    # Interrupts

    def irq_info(self, index: int) -> IrqIndex:
        """Return number and kind of the interrupts of an index."""
        request = wire.IrqInfo(wire.IrqInfo.FORMAT.size, index=index)
        reply = self.call(Command.DEVICE_GET_IRQ_INFO, request.pack())
        info = wire.IrqInfo.unpack(reply.payload)
        return IrqIndex(info.count, IrqInfoFlags(info.flags))

    def set_irqs(
        self,
        index: int,
        start: int,
        count: int,
        flags: IrqSetFlags,
        *,
        data: bytes = b"",
        fds: Sequence[int] = (),
    ) -> None:
        """Send one DEVICE_SET_IRQS."""
        argsz = wire.IrqSet.FORMAT.size + len(data)
        request = wire.IrqSet(argsz, flags, index, start, count)
        self.call(Command.DEVICE_SET_IRQS, request.pack() + data, fds)

    def wire_irqs(
        self,
        index: int,
        start: int,
        eventfds: Sequence[int | None],
        action: IrqSetFlags = IrqSetFlags.ACTION_TRIGGER,
    ) -> None:
        """Assign eventfds from vector ``start`` on; None takes one away. They stay the caller's.

        One message holds descriptors or takes them away, and no more than the server takes.

        :raises OSError: the server refused; earlier vectors may have been assigned.
        """
        place = 0
        while place < len(eventfds):
            given = eventfds[place] is not None
            run: list[int | None] = []
            for fd in eventfds[place : place + (self.peer.max_msg_fds or 1)]:
                if (fd is not None) != given:
                    break
                run.append(fd)
            flags = IrqSetFlags.DATA_EVENTFD | action
            fds = [fd for fd in run if fd is not None]
            self.set_irqs(index, start + place, len(run), flags, fds=fds)
            place += len(run)

    def mask_irqs(self, index: int, start: int, count: int) -> None:
        """Mask interrupts: what the device raises is held."""
        self.set_irqs(index, start, count, IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_MASK)

    def unmask_irqs(self, index: int, start: int, count: int) -> None:
        """Unmask interrupts: what was held is signalled, once."""
        self.set_irqs(index, start, count, IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_UNMASK)

    def trigger_irqs(self, index: int, start: int, count: int) -> None:
        """Have the server raise interrupts as if the device had."""
        self.set_irqs(index, start, count, IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_TRIGGER)

    def disable_irqs(self, index: int) -> None:
        """Take away every eventfd and mask of an index."""
        self.set_irqs(index, 0, 0, IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_TRIGGER)
