"""The contract between the vfio-user server and the device it serves.

The server owns this contract; a device model implements :class:`Device` and is handed a
:class:`Bus`. Device callbacks run on the server's thread and must not block: QEMU may be waiting
for the very reply that the callback delays. Work that has to wait (DMA through messages, an
interrupt's verdict) goes to :meth:`Bus.defer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from harness.spec.vfio import IrqInfoFlags, RegionFlags

Verdict = Future[bytes]
"""The client's answer to an interrupt message: it tells by an exception that it was refused."""


@dataclass(frozen=True, slots=True)
class MappableArea:
    """A part of a region that a client may map: page-aligned offset and size, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Region:
    """One region of the device, by its index (0-5 BARs, 6 ROM, 7 config space).

    ``fd`` is a file that backs ``mappable`` at ``fd_offset``; the device keeps owning it.
    """

    size: int
    flags: RegionFlags
    mappable: Sequence[MappableArea] = field(default=())
    fd: int | None = None
    fd_offset: int = 0


@dataclass(frozen=True, slots=True)
class IrqIndex:
    """One interrupt index of the device (INTx, MSI, MSI-X, error, request): how many and how."""

    count: int
    flags: IrqInfoFlags


class Bus(Protocol):
    """What a device can do towards its client. All methods may be called from any thread."""

    def dma_read(self, address: int, count: int) -> bytes:
        """Return ``count`` bytes of client memory at an I/O virtual address.

        Direct when the range is mapped with a file descriptor, else a DMA_READ message: then it
        blocks, and only deferred work may call it.

        :raises OSError: the client refused (``errno`` is its answer), answered nonsense (EPROTO) or
            not in time (ETIMEDOUT), or has gone; or the range leaves the address space (EFAULT).
        """

    def dma_write(self, address: int, data: bytes) -> None:
        """Write client memory; as :meth:`dma_read`.

        :raises OSError: as :meth:`dma_read`.
        """

    def send_message(self, address: int, data: int) -> Verdict:
        """Send an interrupt message: a 4-byte DMA write that is always a message to the client.

        The verdict ends when the client has answered: with ``OSError`` when it was refused (EFAULT
        when interrupt remapping blocked it, ENODEV without bus mastering).
        """

    def irq_is_wired(self, index: int, vector: int) -> bool:
        """Whether the client has given an eventfd for this interrupt (SET_IRQS, trigger)."""

    def trigger_irq(self, index: int, vector: int) -> bool:
        """Signal the client's eventfd; False when there is none.

        While the client has it masked it is held, and signalled once on unmask.
        """

    def defer(self, work: Callable[[], None]) -> None:
        """Run ``work`` soon on the device's worker thread, in order, where it may block.

        An exception in it fails the server: it surfaces at the end of ``device_server``.
        """


class Device(Protocol):
    """A device model, as the server sees it. Called on the server's thread only."""

    @property
    def regions(self) -> Sequence[Region]:
        """The regions, by index; size 0 is one that the device does not have."""

    @property
    def irqs(self) -> Sequence[IrqIndex]:
        """The interrupt indices, by index; count 0 is one that the device does not have."""

    def attached(self, bus: Bus) -> None:
        """Take note of a client that has negotiated; ``bus`` is good until :meth:`detached`."""

    def detached(self) -> None:
        """Take note that the client has gone; nothing may be sent any more."""

    def reset(self) -> None:
        """Return to the state after power-on (VFIO_USER_DEVICE_RESET)."""

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        """Return ``count`` bytes of a region. The range is inside the region.

        :raises OSError: the access cannot be answered; ``errno`` goes to the client.
        """

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        """Write to a region. The range is inside the region.

        :raises OSError: the access cannot be answered; ``errno`` goes to the client.
        """

    def irqs_wanted(self, index: int, numbers: range) -> None:
        """Set host interrupts up for vectors of an index, before eventfds are assigned to them.

        :raises OSError: the host refuses; ``errno`` goes to the client, and nothing is assigned.
        """

    def irqs_changed(self, index: int, start: int, count: int) -> None:
        """Take note that SET_IRQS changed what is wired or masked for these vectors of an index."""
