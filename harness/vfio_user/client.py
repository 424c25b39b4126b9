# Ref: QEMU docs/interop/vfio-user.rst, "vfio-user Protocol Specification" (QEMU 11.1).
"""A vfio-user client: poke a device with no VM.

    with device_server(device, server_end), Client(client_end) as client:
        client.region_write(0, 0x10, b"\\1\\0\\0\\0")
        memory = client.map_shared(0x100000, 4096)     # the device may DMA here

See :mod:`harness.vfio_user.calls` for what happens on which thread.
"""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Final, Self

from harness.spec.vfio import (
    Command,
    DmaMapFlags,
    DmaUnmapFlags,
    IrqInfoFlags,
    IrqSetFlags,
    RegionFlags,
)
from harness.vfio_user import wire
from harness.vfio_user.calls import Calls
from harness.vfio_user.channel import Observer
from harness.vfio_user.client_memory import ClientMemory, DmaRead, DmaWrite
from harness.vfio_user.device import IrqIndex, MappableArea, Region
from harness.vfio_user.wire import Capabilities

CAPABILITIES: Final = Capabilities(max_msg_fds=16, write_multiple=True)
"""What a client proposes unless told otherwise."""

_READ_WRITE: Final = DmaMapFlags.READ | DmaMapFlags.WRITE


class Client(Calls):
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
        self._memory = ClientMemory(dma_read, dma_write)
        self._mapped: list[mmap.mmap] = []
        super().__init__(connection, self._memory.answer, observer=observer)
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
        super().close()
        for mapped in self._mapped:
            mapped.close()
        self._mapped.clear()
        self._memory.clear()

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
        self._memory.add(address, memory, flags)
        return memory

    def map_served(
        self, address: int, memory: bytearray, *, flags: DmaMapFlags = _READ_WRITE
    ) -> None:
        """Give the server memory that it reaches by messages only. It stays the caller's."""
        self.dma_map(address, len(memory), flags=flags)
        self._memory.add(address, memory, flags)

    def dma_unmap(self, address: int, size: int) -> None:
        """Take a range away."""
        self._unmap(address, size, 0)
        self._memory.remove(address, size)

    def dma_unmap_all(self) -> None:
        """Take every range away."""
        self._unmap(0, 0, DmaUnmapFlags.ALL)
        self._memory.clear()

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
            self.post(Command.REGION_WRITE, payload)
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
            self.post(Command.REGION_WRITE_MULTI, payload)
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
