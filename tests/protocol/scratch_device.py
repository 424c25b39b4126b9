"""A small device to serve: memory behind two regions, one of them mappable, and some interrupts."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable

from harness.spec.vfio import IrqInfoFlags, RegionFlags
from harness.vfio_user.device import Bus, IrqIndex, MappableArea, Region

RW = RegionFlags.READ | RegionFlags.WRITE

MEMORY = 0
"""Region of 4 KiB that is plain memory."""
READ_ONLY = 1
"""Region of 16 bytes that refuses writes."""
WINDOW = 2
"""Region of 16 KiB whose second and fourth page can be mapped."""
WHOLE = 3
"""Region of 4 KiB that can be mapped in whole."""
ABSENT = 4
"""Region of size 0."""

REFUSING = 0xF00
"""Offset in MEMORY whose access raises OSError(EACCES)."""
BROKEN = 0xF10
"""Offset in MEMORY whose access raises ZeroDivisionError."""
SHORT = 0xF20
"""Offset in MEMORY from which one byte too few is read."""

INTX, MSI, MSIX, SILENT = range(4)
"""Interrupt indices: one auto-masked; 8 that cannot be masked; 40 that can; one with no eventfd."""


class ScratchDevice:
    """The device. ``on_write`` is called after a write to MEMORY, on the server's thread."""

    def __init__(self) -> None:
        self.memory = bytearray(4096)
        self.window_fd = os.memfd_create("window")
        os.ftruncate(self.window_fd, 5 * 4096)
        self.window = mmap.mmap(self.window_fd, 5 * 4096)
        areas = (MappableArea(4096, 4096), MappableArea(3 * 4096, 4096))
        self.regions = (
            Region(4096, RW),
            Region(16, RegionFlags.READ),
            Region(4 * 4096, RW, areas, self.window_fd, 4096),
            Region(4096, RW, (MappableArea(0, 4096),), self.window_fd, 0),
            Region(0, RegionFlags(0)),
        )
        self.irqs = (
            IrqIndex(1, IrqInfoFlags.EVENTFD | IrqInfoFlags.MASKABLE | IrqInfoFlags.AUTOMASKED),
            IrqIndex(8, IrqInfoFlags.EVENTFD | IrqInfoFlags.NORESIZE),
            IrqIndex(40, IrqInfoFlags.EVENTFD | IrqInfoFlags.MASKABLE),
            IrqIndex(1, IrqInfoFlags(0)),
            IrqIndex(0, IrqInfoFlags.EVENTFD),
        )
        self.bus: Bus | None = None
        self.log: list[tuple[object, ...]] = []
        self.on_write: Callable[[int, bytes], None] = lambda offset, data: None

    def close(self) -> None:
        self.window.close()
        os.close(self.window_fd)

    def attached(self, bus: Bus) -> None:
        self.bus = bus
        self.log.append(("attached",))

    def detached(self) -> None:
        self.bus = None
        self.log.append(("detached",))

    def reset(self) -> None:
        self.memory[:] = bytes(4096)
        self.log.append(("reset",))

    def _special(self, offset: int) -> None:
        if offset == REFUSING:
            raise OSError(errno.EACCES, "refused by the device")
        if offset == BROKEN:
            raise ZeroDivisionError("a bug in the device")

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        if region == MEMORY:
            self._special(offset)
            if offset == SHORT:
                count -= 1
            return bytes(self.memory[offset : offset + count])
        return bytes(count)

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        if region == MEMORY:
            self._special(offset)
            self.memory[offset : offset + len(data)] = data
            self.on_write(offset, data)

    def irqs_wanted(self, index: int, numbers: range) -> None:
        pass

    def irqs_changed(self, index: int, start: int, count: int) -> None:
        self.log.append(("irqs", index, start, count))
