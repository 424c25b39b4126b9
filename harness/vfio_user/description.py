# Ref: QEMU docs/interop/vfio-user.rst, VFIO_USER_DEVICE_GET_INFO to GET_IRQ_INFO (QEMU 11.1).
"""What a client is told of a device: its regions and interrupt indices. Changes nothing.

A request is what its fields say. Some clients send it zero-padded to the size of the reply that
they expect, so the size of the message only bounds it.
"""

from __future__ import annotations

from harness.errors import ProtocolError
from harness.spec.vfio import DeviceFlags, RegionFlags
from harness.vfio_user import wire
from harness.vfio_user.device import Device, Region


class Description:
    """The answers to the DEVICE_GET commands, as payloads.

    All raise ``ProtocolError`` for an index that the device does not have, for an ``argsz`` below
    the fixed part of the reply, and for a field that is not zero where it has to be.
    """

    def __init__(self, device: Device):
        self._device = device
        self.regions = tuple(device.regions)
        """The device's regions, by index."""

    def device_info(self, payload: bytes) -> bytes:
        """Return how many regions and interrupt indices there are."""
        request = wire.DeviceInfo.unpack_padded(payload)
        size = request.FORMAT.size
        if request.argsz < size or request != wire.DeviceInfo(request.argsz):
            raise ProtocolError(f"{request}")
        flags = DeviceFlags.RESET | DeviceFlags.PCI
        return wire.DeviceInfo(size, flags, len(self.regions), len(self._device.irqs)).pack()

    def region_info(self, payload: bytes, *, max_fds: int) -> tuple[bytes, list[int]]:
        """Return size and rights of a region, and the file descriptor to map it with, if any.

        A client whose ``argsz`` has no room for the capabilities learns the size it needs, and
        nothing of mapping: the areas stand in what it did not get. It asks again.

        :param max_fds: file descriptors that the client takes in one message.
        """
        request = wire.RegionInfo.unpack_padded(payload)
        size = request.FORMAT.size
        if request.argsz < size or request != wire.RegionInfo(request.argsz, 0, request.index):
            raise ProtocolError(f"{request}")
        region = self._region(request.index)
        argsz, cap_offset, capability, fds = size, 0, b"", list[int]()
        flags = region.flags & (RegionFlags.READ | RegionFlags.WRITE)
        if region.fd is not None and region.mappable and max_fds:
            whole = [(area.offset, area.size) for area in region.mappable] == [(0, region.size)]
            capability = b"" if whole else wire.pack_sparse_mmap(region.mappable)
            argsz += len(capability)
            if argsz > request.argsz:
                capability = b""
            else:
                flags |= RegionFlags.MMAP
                fds = [region.fd]
            if capability:
                flags |= RegionFlags.CAPS
                cap_offset = size
        info = wire.RegionInfo(
            argsz, flags, request.index, cap_offset, region.size, region.fd_offset
        )
        return info.pack() + capability, fds

    def region_io_fds(self, payload: bytes) -> bytes:
        """Return that no part of a region has an ioeventfd: every access comes as a message."""
        request = wire.RegionIoFds.unpack_padded(payload)
        size = request.FORMAT.size
        if request.argsz < size or request != wire.RegionIoFds(request.argsz, 0, request.index):
            raise ProtocolError(f"{request}")
        self._region(request.index)
        return wire.RegionIoFds(size, 0, request.index, 0).pack()

    def irq_info(self, payload: bytes) -> bytes:
        """Return number and kind of the interrupts of an index."""
        request = wire.IrqInfo.unpack_padded(payload)
        size = request.FORMAT.size
        if request.argsz < size or request != wire.IrqInfo(request.argsz, 0, request.index):
            raise ProtocolError(f"{request}")
        irqs = self._device.irqs
        if request.index >= len(irqs):
            raise ProtocolError(f"no interrupt index {request.index}")
        irq = irqs[request.index]
        return wire.IrqInfo(size, irq.flags, request.index, irq.count).pack()

    def _region(self, index: int) -> Region:
        if index >= len(self.regions):
            raise ProtocolError(f"no region {index}")
        return self.regions[index]
