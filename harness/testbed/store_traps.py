"""The guest's trapped accesses to the stores of one function, wherever each of them ended.

Those to MSI, to IMS and to MSI-X's control register end in the model; those to the MSI-X table in
QEMU. What QEMU serves of a mapped array counts as well: nothing may be trapped there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from harness.devices.ims_function.address_map import Area
from harness.devices.ims_function.function import ImsFunction
from harness.errors import CheckFailed
from harness.events.stream import Event, Mark, Stream, now
from harness.guest.control import Answered
from harness.pci.access_log import Access
from harness.pci.store_order import Returned, StoreAccess, entry_place, out_of_order
from harness.qemu.trace import MAPPED, MSIX_TABLE, EmulatedAccess
from harness.spec import ims_function as regs
from harness.spec.interrupt import Store
from harness.spec.vfio import Command, IrqIndexNumber, IrqSetFlags, RegionIndex
from harness.vfio_user.transcript import Exchanged
from harness.vfio_user.wire import IrqSet, WireMessage

STORE_OF: Final = {
    Area.MSI: Store.MSI,
    Area.MSIX_CONTROL: Store.MSIX,
    Area.MSIX_TABLE: Store.MSIX,
    Area.MSIX_PBA: Store.MSIX,
    Area.IMS: Store.IMS,
}
"""The areas of the function that belong to a store."""


@dataclass(frozen=True, slots=True)
class HostCall:
    """One VFIO_DEVICE_SET_IRQS, as the server sees it."""

    index: IrqIndexNumber
    flags: IrqSetFlags
    start: int
    count: int
    eventfds: int
    """How many came along."""

    @classmethod
    def of(cls, message: WireMessage) -> HostCall:
        """Return the call in a message."""
        call, _ = IrqSet.unpack_head(message.payload)
        flags = IrqSetFlags(call.flags)
        return cls(IrqIndexNumber(call.index), flags, call.start, call.count, len(message.fds))

    def __str__(self) -> str:
        name = self.index.name
        if not self.count:
            return f"{name} disable"
        if self.flags != IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_TRIGGER:
            return f"{name} {self.flags.name} {self.start}+{self.count}"
        what = "wire" if self.eventfds else "unwire"
        return f"{name} {what} {self.start}+{self.count}"


class StoreTraps:
    """The trapped accesses of one measurement. Made by ``PluggedFunction.trapped``.

    :param table_address: guest physical address of the MSI-X table.
    """

    def __init__(self, events: Stream, model: ImsFunction, table_address: int):
        self._events = events
        self._model = model
        self._source = model.writer.source
        self._table_address = table_address
        self._since: Mark = events.mark()
        self._until: int | None = None

    def end(self) -> None:
        """Take no more."""
        self._until = now()

    def __getitem__(self, store: Store) -> int:
        """Return how many there were to a store."""
        return len(self.accesses(store))

    def accesses(self, *stores: Store) -> list[StoreAccess]:
        """Return them, in order of time: to some stores, or to all.

        :raises HarnessError: there were more than the stream holds.
        """
        found = [*self._in_the_model(), *self._in_qemu()]
        return sorted(
            (access for access in found if not stores or access.store in stores),
            key=lambda access: access.when,
        )

    def host_calls(self) -> list[HostCall]:
        """Return what the host was asked to do about interrupts, in order."""
        return [
            HostCall.of(item.message)
            for item in self._events.of(Exchanged, self._since, source=self._source)
            if item.message.command == Command.DEVICE_SET_IRQS
            and item.direction == "<-"
            and self._is_inside(item)
        ]

    def check_order(self, store: Store) -> None:
        """Look whether every access came in its order (row G2): begin when all entries are masked.

        :raises CheckFailed: some did not; each is named.
        """
        returned = [
            Returned(answer.when, answer.request)
            for answer in self._events.of(Answered, self._since)
        ]
        happened: list[StoreAccess | Returned] = [*self.accesses(store), *returned]
        found = out_of_order(sorted(happened, key=lambda item: item.when), store)
        if found:
            raise CheckFailed(
                f"{len(found)} accesses to {store.name} came at the wrong time",
                evidence="\n".join(map(str, found)),
            )

    def _in_the_model(self) -> Iterator[StoreAccess]:
        for access in self._events.of(Access, self._since, source=self._source):
            store = STORE_OF.get(Area(access.area))
            if store is not None and self._is_inside(access):
                index, offset = self._place(access.region, access.offset, store)
                yield StoreAccess(
                    when=access.when,
                    store=store,
                    register=access.register,
                    index=index,
                    offset=offset,
                    size=access.size,
                    value=access.value,
                    write=access.write,
                )

    def _in_qemu(self) -> Iterator[StoreAccess]:
        for access in self._events.of(EmulatedAccess, self._since):
            if access.cpu < 0 or not self._is_inside(access):
                continue  # the monitor's is none of the guest's
            if (place := self._served_by_qemu(access)) is None:
                continue
            bar, at = place
            store = Store.IMS if bar == regs.BAR_IMS else Store.MSIX
            index, offset = self._place(bar, at, store)
            yield StoreAccess(
                when=access.when,
                store=store,
                register=self._model.address_map.name(bar, at),
                index=index,
                offset=offset,
                size=access.size,
                value=access.value,
                write=access.write,
            )

    def _served_by_qemu(self, access: EmulatedAccess) -> tuple[int, int] | None:
        """Return BAR and offset of an access that did not go on to the model, None: it is not ours.

        QEMU gives the tables of all functions the same name, so that the address tells.
        """
        if access.region == MAPPED and self._model.spec.ims_mapped:
            return regs.BAR_IMS, access.address
        if access.region == MSIX_TABLE:
            at = access.address - self._table_address
            return (regs.BAR_MSIX, at) if 0 <= at < regs.BAR_MSIX_SIZE else None
        return None

    def _place(self, region: int, at: int, store: Store) -> tuple[int | None, int]:
        if region == RegionIndex.CONFIG:
            for item in self._model.config.capabilities.values():
                if item.offset <= at < item.end:
                    return None, at - item.offset
        if region == regs.BAR_MSIX and at >= regs.MSIX_PBA_OFFSET:
            return None, at - regs.MSIX_PBA_OFFSET
        return entry_place(at)

    def _is_inside(self, event: Event) -> bool:
        return self._until is None or event.when <= self._until
