"""The IMS function: one PCI Express function that raises interrupts on request.

It joins config space, the three message stores, the control registers, the work queue and the
ledger of events, and serves them as a :class:`harness.vfio_user.device.Device`. See docs/device.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Final, Self

from harness.devices.burst import Burst
from harness.devices.delivery import WIRE, Delivery, MessageGate, OpenGate
from harness.devices.ims_function.address_map import AddressMap, Area
from harness.devices.ims_function.config import config_space
from harness.devices.ims_function.control_bar import ControlBar
from harness.devices.ims_function.ims import ImsStore
from harness.devices.ims_function.msix_window import MsixWindow
from harness.devices.ims_function.pending_watch import PendingWatch
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.devices.ims_function.work_queue import WorkQueue
from harness.devices.ledger import Event, Ledger
from harness.events.stream import Writer
from harness.host.deadline import Deadline
from harness.hypervisor.store_trap import StoreTrap
from harness.hypervisor.trap_path import TrapPath
from harness.pci.access_log import AccessLog, RefusalLog
from harness.pci.msi import MsiStore
from harness.pci.msix import MsixStore
from harness.pci.store import InterruptStore, StoreEntry
from harness.spec import ims_function as regs
from harness.spec.interrupt import InterruptName, Store
from harness.spec.msi import MessageEntry
from harness.spec.pci import CONFIG_SIZE, CapabilityId
from harness.spec.vfio import IrqIndexNumber, IrqInfoFlags, RegionFlags, RegionIndex
from harness.vfio_user.device import Bus, IrqIndex, MappableArea, Region, Verdict

_STORES: Final[dict[int, Store]] = {index: store for store, index in WIRE.items()}
"""Stores by their VFIO interrupt index."""


class ImsFunction:
    """One function. It owns the memory file of a mapped IMS array: use it as a context manager.

    Callbacks of the server and calls of the tests may come on any thread: each is a step of its own
    under the function's lock, see :mod:`harness.devices.delivery`.

    :param gate: checks the origin of the messages that the function sends itself.
    """

    def __init__(self, spec: ImsFunctionSpec | None = None, gate: MessageGate | None = None):
        self.spec = spec = spec or ImsFunctionSpec()
        self.writer = Writer("function")
        """Writes all that happens to the function: into a stream of its own, until it joins one."""
        self.ledger = Ledger(self.writer)
        """Every event that was raised, and what became of it."""
        self.config = config_space(spec)
        self.refusals = RefusalLog()
        self.address_map = AddressMap(self.config)
        self.accesses = AccessLog(Area, self.address_map.name, self.writer)
        """Every trapped access."""
        self._lock = threading.RLock()
        self._burst: Burst | None = None
        self._msi = MsiStore(self.config) if spec.msi_vectors else None
        self._msix = MsixStore(self.config) if spec.msix_vectors else None
        self._ims = ImsStore(spec.ims_entries, mapped=spec.ims_mapped)
        self._window = MsixWindow(self.config, spec.msix_vectors) if spec.msix_window else None
        self.in_new_scheme: Callable[[], bool] = lambda: False
        """Tells whether the guest has negotiated the vIRTE call. Whoever plugs in sets it."""
        stores: dict[Store, InterruptStore | None]
        stores = {Store.MSI: self._msi, Store.MSIX: self._msix, Store.IMS: self._ims}
        self._stores = {store: state for store, state in stores.items() if state is not None}
        self._delivery = Delivery(
            stores=self._stores,
            config=self.config,
            ledger=self.ledger,
            gate=gate or OpenGate(),
            lock=self._lock,
            ended=self._event_ended,
        )
        self.queue = WorkQueue(self, lambda: self.config.bus_master, self._lock)
        self._watch = PendingWatch(self._is_watched, self._look_at_pending, self._lock)
        self._control = ControlBar(
            spec=spec,
            queue=self.queue,
            ims=self._ims,
            ledger=self.ledger,
            refusals=self.refusals,
            address_map=self.address_map,
            bus=lambda: self._delivery.bus,
            reset=self._reset_own_state,
            answered=self._event_ended,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back what the function owns: the watching thread and the memory file."""
        self._watch.stop()
        self._ims.close()
        if self._window:
            self._window.close()

    def guard(self, gate: MessageGate) -> None:
        """Let the messages that the function sends itself pass this gate from now on."""
        self._delivery.gate = gate

    @property
    def trap_path(self) -> TrapPath | None:
        """Where the host's interrupts for MSI and MSI-X come from; None: there are always some."""
        return self._delivery.trap_path

    @trap_path.setter
    def trap_path(self, trap_path: TrapPath | None) -> None:
        self._delivery.trap_path = trap_path

    def trap_stores(self, trap: StoreTrap, gate: Callable[[MessageGate], MessageGate]) -> None:
        """Let a hypervisor write the hardware's stores from now on, for what the guest writes.

        Of the MSI-X table, which the client keeps to itself, whoever can read it tells the trap.

        :param gate: makes what takes the messages out of the gate that took them so far.
        """
        with self._lock:
            self._delivery.store_trap = trap
            self._delivery.gate = gate(self._delivery.gate)

    def _tell_trap(self, store: Store, indices: Iterable[int]) -> None:
        if trap := self._delivery.store_trap:
            state = self._stores[store]
            for index in indices:
                if not state.masked(index, wired=False):
                    trap.write(InterruptName(store, index), state.message(index))

    # For tests and the harness.

    def raise_interrupt(self, store: Store, index: int) -> Event:
        """Raise an interrupt, as the function's own work would; its event says what came of it.

        :raises ValueError: the function has no such interrupt.
        """
        if not self.has(store, index):
            raise ValueError(f"the function has no interrupt {store.name} {index}")
        event = self.open(store, index)
        self.send(event)
        return event

    def raise_and_wait(self, store: Store, index: int, deadline: Deadline) -> Event:
        """Raise an interrupt and wait until the guest's handler has answered it.

        :raises CheckFailed: it was not sent, or not answered before ``deadline``.
        """
        event = self.raise_interrupt(store, index)
        self.ledger.wait_answered(event, deadline)
        return event

    def burst(self, store: Store, indices: Iterable[int], count: int) -> Burst:
        """Start to raise ``count`` events over some interrupts, one in flight on each.

        :raises ValueError: the function has no such interrupt, or another burst is under way.
        """
        indices = list(indices)
        for index in indices:
            if not self.has(store, index):
                raise ValueError(f"the function has no interrupt {store.name} {index}")
        if self._burst is not None and not self._burst.over:
            raise ValueError("a burst is under way already")
        burst = self._burst = Burst(
            self.raise_interrupt,
            store,
            indices,
            count,
            self.ledger.blaming_the_guest,
            self.writer,
        )
        burst.start()
        return burst

    def stores(self) -> list[StoreEntry]:
        """Return every interrupt of every store as the model sees it now."""
        with self._lock:
            return [
                self._store_entry(store, index)
                for store in self._stores
                for index in range(self.spec.count(store))
            ]

    def store_entry(self, store: Store, index: int) -> StoreEntry:
        """Return one interrupt of a store as the model sees it now.

        :raises ValueError: the function has no such interrupt.
        """
        if not self.has(store, index):
            raise ValueError(f"the function has no interrupt {store.name} {index}")
        with self._lock:
            return self._store_entry(store, index)

    def _store_entry(self, store: Store, index: int) -> StoreEntry:
        state = self._stores[store]
        wired = self._delivery.wired(store, index)
        # A client that has wired an MSI-X vector keeps the table, message and mask bit, to itself.
        elsewhere = wired and store is Store.MSIX
        message = state.message(index)
        return StoreEntry(
            interrupt=InterruptName(store, index),
            address=None if elsewhere else message.address,
            data=None if elsewhere else message.data,
            masked=None if elsewhere else state.masked(index, wired=wired),
            pending=index in state.pending,
            enabled=state.enabled(index),
        )

    # For the work queue.

    def has(self, store: int, index: int) -> bool:
        """Whether the function has this interrupt."""
        return store in self._stores and 0 <= index < self.spec.count(Store(store))

    def open(self, store: Store, index: int) -> Event:
        """Return a new event that is not yet decided."""
        return self.ledger.open(store, index)

    def send(self, event: Event) -> Verdict | None:
        """Send an open event; return the client's verdict to come, if any."""
        with self._lock:
            verdict = self._delivery.send(event)
            if self._is_watched():
                self._watch.start()
            return verdict

    def abandon(self, event: Event, reason: str) -> None:
        """Forget an open event that will not be sent."""
        self._delivery.abandon(event, reason)

    def _is_watched(self) -> bool:
        mapped = [self._ims] if self.spec.ims_mapped else []
        mapped += [self._window] if self._window else []
        return any(store.pending for store in mapped) and self._delivery.bus is not None

    def _look_at_pending(self) -> None:
        # Not on the worker: it may be waiting for the client's memory.
        try:
            self._delivery.release(Store.IMS)
            self._delivery.release(Store.MSIX)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        # What goes wrong here has to end the server, so that is where it is raised.
        def fail() -> None:
            raise error

        if (bus := self._delivery.bus) is not None:
            bus.defer(fail)

    def _event_ended(self, event: Event) -> None:
        if self._burst is not None:
            self._burst.ended(event)

    # For the vfio-user server.

    @property
    def regions(self) -> Sequence[Region]:
        """The regions by VFIO index."""
        flags = RegionFlags.READ | RegionFlags.WRITE
        regions = [Region(0, RegionFlags(0))] * len(RegionIndex)
        regions[regs.BAR_CONTROL] = Region(regs.BAR_CONTROL_SIZE, flags)
        regions[regs.BAR_MSIX] = Region(regs.BAR_MSIX_SIZE, flags)
        regions[regs.BAR_IMS] = Region(regs.BAR_IMS_SIZE, flags)
        regions[RegionIndex.CONFIG] = Region(CONFIG_SIZE, flags)
        if self.spec.ims_mapped:
            regions[regs.BAR_IMS] = Region(
                regs.BAR_IMS_SIZE,
                flags | RegionFlags.MMAP,
                mappable=[MappableArea(0, regs.BAR_IMS_SIZE)],
                fd=self._ims.fd,
            )
        if self._window:
            regions[regs.BAR_MSIX_WINDOW] = Region(
                regs.BAR_IMS_SIZE,
                flags | RegionFlags.MMAP,
                mappable=[MappableArea(0, regs.BAR_IMS_SIZE)],
                fd=self._window.fd,
            )
        return regions

    @property
    def irqs(self) -> Sequence[IrqIndex]:
        """The interrupt indices by VFIO index: MSI, MSI-X, and errors (never signalled)."""
        eventfd = IrqInfoFlags.EVENTFD
        irqs = [IrqIndex(0, IrqInfoFlags(0))] * len(IrqIndexNumber)
        # As the kernel's VFIO does: MSI never grows, MSI-X does since v6.5 ("vfio/pci: Clear
        # VFIO_IRQ_INFO_NORESIZE for MSI-X").
        irqs[IrqIndexNumber.MSI] = IrqIndex(self.spec.msi_vectors, eventfd | IrqInfoFlags.NORESIZE)
        irqs[IrqIndexNumber.MSIX] = IrqIndex(
            self.spec.msix_vectors,
            eventfd | IrqInfoFlags.NORESIZE if self.spec.msix_noresize else eventfd,
        )
        # Every PCI Express function has this one; without it QEMU warns.
        irqs[IrqIndexNumber.ERR] = IrqIndex(1, eventfd | IrqInfoFlags.NORESIZE)
        return irqs

    def attached(self, bus: Bus) -> None:
        """Begin as after power-on, with a new client."""
        self.reset()
        with self._lock:
            self._delivery.bus = bus

    def detached(self) -> None:
        """Send nothing more. The state stays as it was, to be looked at."""
        with self._lock:
            self._delivery.bus = None
            self._delivery.drop_all("the client went away")
        self._watch.stop()

    def reset(self) -> None:
        """Return to the state after power-on, config space included."""
        with self._lock:
            self.config.reset()
            if self._delivery.store_trap:
                self._delivery.store_trap.reset()
            if self._msi:
                self._msi.reset()
            if self._msix:
                self._msix.reset()
            if self._window:
                self._window.reset()
                self._choose_msix()
            self._reset_own_state()

    def _reset_own_state(self) -> None:
        # CONTROL.reset: everything but config space, MSI and MSI-X.
        with self._lock:
            self._delivery.drop_all("the function was reset")
            self._ims.reset()
            self.queue.reset()
            self.refusals.reset()

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        """Return what the guest reads; zero where the register map allows no such access."""
        with self._lock:
            data = self._read(region, offset, count)
            if data is None:
                self.refusals.refuse(region, offset, count, write=False)
                data = bytes(count)
        area = self.address_map.area(region, offset, count)
        self.accesses.record(area, region, offset, data, write=False)
        return data

    def _read(self, region: int, offset: int, count: int) -> bytes | None:
        if region == regs.BAR_CONTROL:
            return self._control.read(offset, count)
        if region == RegionIndex.CONFIG:
            if self._window:
                self._window.show(self.in_new_scheme())
            return self.config.read(offset, count)
        if region == regs.BAR_MSIX_WINDOW and self._window:
            return self._window.read(offset, count)
        if region == regs.BAR_IMS:
            return self._ims.read(offset, count)
        if region == regs.BAR_MSIX and self._msix:
            if offset >= regs.MSIX_PBA_OFFSET:
                # Its pending bits are those of both tables: one at a time is in use.
                return self._msix.pba_read(offset - regs.MSIX_PBA_OFFSET, count)
            return self._msix.table_read(offset, count)
        return None

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        """Take what the guest writes; nothing happens where the map allows no such access."""
        area = self.address_map.area(region, offset, len(data))
        # Logged before it takes effect, so that what it sets off comes after it.
        self.accesses.record(area, region, offset, data, write=True)
        with self._lock:
            if not self._write(area, region, offset, data):
                self.refusals.refuse(region, offset, len(data), write=True)

    def _write(self, area: Area, region: int, offset: int, data: bytes) -> bool:
        if area is Area.EVENTS:
            return self._control.answer(offset, data)
        if area is Area.CONTROL:
            return self._control.write(offset, data)
        if region == RegionIndex.CONFIG:
            return self._config_write(offset, data)
        done = False
        if area is Area.IMS:
            done = self._ims.write(offset, data)
            if done:
                self._tell_trap(Store.IMS, [offset // MessageEntry.SIZE])
            self._delivery.release(Store.IMS)  # what was written may have unmasked an entry
        elif region == regs.BAR_MSIX_WINDOW and self._window:
            done = self._window.write(offset, data)
            self._delivery.release(Store.MSIX)
        elif area is Area.MSIX_TABLE and self._msix:
            done = self._msix.table_write(offset, data)
            self._delivery.release(Store.MSIX)
        return done

    def _config_write(self, offset: int, data: bytes) -> bool:
        self.config.write(offset, data)
        if self._msi and self.config.covers(CapabilityId.MSI, offset, len(data)):
            self._msi.registers_written()
            self._tell_trap(Store.MSI, range(self._msi.granted))
        if self._msix and self.config.covers(CapabilityId.MSIX, offset, len(data)):
            self._msix.registers_written()
        if self._window and self.config.covers(CapabilityId.VENDOR, offset, len(data)):
            self._choose_msix()
        if self.config.initiates_flr(offset, data):
            self.reset()
        self._delivery.release(Store.MSI)
        self._delivery.release(Store.MSIX)
        return True

    def irqs_wanted(self, index: int, numbers: range) -> None:
        """Take host interrupts for what is about to be wired, when they are counted.

        :raises OSError: the host has none.
        """
        with self._lock:
            if self.trap_path and (store := _STORES.get(index)):
                self.trap_path.set_up(store, numbers)

    def _choose_msix(self) -> None:
        # The table that is enabled is the one that sends.
        if self._window and self._msix:
            self._msix.pending = self._window.pending
            on = self._window.enabled(0)
            self._stores[Store.MSIX] = self._window if on else self._msix

    def irqs_changed(self, index: int, start: int, count: int) -> None:
        """Send what waited for a wire: its mask bit is the client's from here on."""
        if (store := _STORES.get(index)) is None:
            return
        with self._lock:
            if self.trap_path:
                numbers = range(start, start + count)
                unwired = [n for n in numbers if not self._delivery.wired(store, n)]
                self.trap_path.take_down(store, unwired)
            self._delivery.release(store)
