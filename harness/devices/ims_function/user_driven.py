# Ref: Linux include/uapi/linux/vfio.h (v6.12): device-specific regions and interrupt indices follow
#      VFIO_PCI_NUM_REGIONS and VFIO_PCI_NUM_IRQS. docs/device.md, "Driven from user space".
"""The IMS function for a driver in user space, with no guest: its host composes the pairs.

The driver wires an eventfd to an interrupt of the index ``IMS_IRQ`` and finds its pair in the
region ``PAIRS_REGION``. It writes the pair into the IMS array, and what the function sends with it
ends in the eventfd. A pair dies with its eventfd, or with the driver.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from harness.devices.ims_function.function import ImsFunction
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.hypervisor.host import Fault
from harness.hypervisor.user_driver import UserDriver
from harness.spec.msi import Message, MessageEntry, VectorControl
from harness.spec.vfio import IrqIndexNumber, IrqInfoFlags, RegionFlags, RegionIndex
from harness.vfio_user.device import Bus, IrqIndex, Region, Verdict

IMS_IRQ: Final = len(IrqIndexNumber)
"""Interrupt index of the IMS array's entries."""
PAIRS_REGION: Final = len(RegionIndex)
"""Region with the pairs: 16 bytes for each entry, as they stand in the array; read-only."""


class _RemappedBus:
    """The client's bus, with the host's interrupt remapping on it: messages end there."""

    def __init__(self, client: Bus, driver: UserDriver):
        self._driver = driver
        self._client = client
        self.dma_read = client.dma_read
        self.dma_write = client.dma_write
        self.irq_is_wired = client.irq_is_wired
        self.trigger_irq = client.trigger_irq
        self.defer = client.defer

    def send_message(self, address: int, data: int) -> Verdict:
        """Signal the eventfd that a pair is linked to."""
        verdict = Verdict()
        outcome = self._driver.signal(Message(address, data))
        if isinstance(outcome, Fault):
            verdict.set_exception(OSError(errno.EFAULT, str(outcome)))
        elif self.trigger_irq(IMS_IRQ, outcome.index):
            verdict.set_result(b"")
        else:  # it was taken away just now, and the pair goes with it
            verdict.set_exception(OSError(errno.EFAULT, "its eventfd is gone"))
        return verdict


class UserDrivenFunction(ImsFunction):
    """An IMS function and the host in front of it.

    :param driver: the pairs of the client; they share a host with others'.
    """

    def __init__(self, driver: UserDriver, spec: ImsFunctionSpec | None = None):
        super().__init__(spec)
        self.driver = driver
        self._bus: _RemappedBus | None = None

    @property
    def regions(self) -> Sequence[Region]:
        """The function's regions, and the pairs."""
        pairs = Region(self.spec.ims_entries * MessageEntry.SIZE, RegionFlags.READ)
        return [*super().regions, pairs]

    @property
    def irqs(self) -> Sequence[IrqIndex]:
        """The function's interrupt indices, and the entries of the array."""
        return [*super().irqs, IrqIndex(self.spec.ims_entries, IrqInfoFlags.EVENTFD)]

    def attached(self, bus: Bus) -> None:
        """Begin as after power-on, with a new driver."""
        self._bus = _RemappedBus(bus, self.driver)
        super().attached(self._bus)

    def detached(self) -> None:
        """Take the pairs back: the driver has died."""
        super().detached()
        self.driver.close()

    def irqs_wanted(self, index: int, numbers: range) -> None:
        """Compose pairs for what is about to be wired, all or none.

        :raises OSError: ENOSPC: the host has no interrupt left.
        """
        if index != IMS_IRQ:
            super().irqs_wanted(index, numbers)
            return
        new = [number for number in numbers if self.driver.message(number).is_null]
        try:
            for number in new:
                self.driver.acquire(number)
        except OSError:
            for number in new:
                self.driver.release(number)
            raise

    def irqs_changed(self, index: int, start: int, count: int) -> None:
        """Take the pairs back whose eventfd was taken away."""
        super().irqs_changed(index, start, count)
        if index == IMS_IRQ and self._bus is not None:
            for number in range(start, start + count):
                if not self._bus.irq_is_wired(index, number):
                    self.driver.release(number)

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        """Return what the driver reads: of the pairs, an aligned part of one entry."""
        if region != PAIRS_REGION:
            return super().region_read(region, offset, count)
        number, start = divmod(offset, MessageEntry.SIZE)
        if start + count > MessageEntry.SIZE:
            raise OSError(errno.EINVAL, f"{count} bytes at {start} of a pair")
        pair = self.driver.message(number)
        entry = MessageEntry(pair.address, pair.data, VectorControl()).pack()
        return entry[start : start + count]
