"""An IMS function in a running guest: its model, its driver, and every way to look at it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from harness.devices.ims_function.function import ImsFunction
from harness.errors import CheckFailed, GuestCommandError
from harness.guest.control import Control
from harness.guest.facts import Interrupt
from harness.guest.function_control import FunctionControl, find_function
from harness.host.deadline import Deadline
from harness.pci.store import StoreEntry
from harness.qemu.command import BRIDGE
from harness.qemu.pci import read_config, secondary_bus
from harness.remapping.audit import Disagreement, audit
from harness.remapping.handle_audit import audit_handles
from harness.remapping.live_entries import BrokenRule, broken_rules
from harness.spec import ims_function as regs
from harness.spec.interrupt import Store
from harness.spec.msi import Message, MessageEntry
from harness.testbed.apics import online_apics
from harness.testbed.evidence import keep
from harness.testbed.served import ServedFunction
from harness.testbed.store_traps import StoreTraps
from harness.testbed.views import entry_cpus, guest_interrupts, handles_of

BIND_SECONDS: Final = 20.0
BIND_ROUND_MS: Final = 250
"""How long the guest waits for its driver before the server is looked at again."""
ANSWER_SECONDS: Final = 5.0
STORES: Final = (Store.MSI, Store.MSIX, Store.IMS)


class PluggedFunction(ServedFunction[ImsFunction]):
    """An IMS function with its driver. Made by ``Vm.ims_function``."""

    control: FunctionControl
    """The driver's operations on this function, in the guest."""

    def __init__(self, served: ServedFunction[ImsFunction], guest: Control):
        super().__init__(served.place, served.model, served.server, served.doors)
        self._guest = guest
        served.model.ledger.check_peers = self.check_alive
        doors = served.doors
        served.model.in_new_scheme = lambda: any(door.partition.negotiated for door in doors)

    def wait_bound(self) -> None:
        """Wait for the guest's driver, and learn what number it has got.

        :raises DeadlineExpired: no driver binds the function.
        """
        deadline = Deadline(BIND_SECONDS, f"the guest's driver binding {self.slot}")
        ports = self.machine.spec.root_ports
        while True:
            self.server.check()
            try:
                self.control = find_function(
                    self._guest, self.slot, among=ports, wait_ms=BIND_ROUND_MS
                )
            except GuestCommandError as error:
                deadline.check(error.message)
            else:
                return

    def bind(self) -> None:
        """Bind the guest's driver, which was unbound."""
        self._guest.bind(self.slot)
        self.wait_bound()

    def unbind(self) -> None:
        """Unbind the guest's driver: everything the function has is freed."""
        self._guest.unbind(self.slot)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Have the guest write a register of config space, past its driver."""
        self._guest.write_config(self.slot, offset, size, value)

    # The guest's operations that need care.

    def set_up(self, store: Store, count: int, *, index: int = 0) -> None:
        """Allocate a range of interrupts in the guest and request them."""
        self.control.alloc(store, count, index=index)
        self.control.request(store, index=index, count=count)

    def move(self, store: Store, cpu: int, index: int = 0) -> int:
        """Move one interrupt to a CPU, and see to it that the move is in force.

        Return how many interrupts that took: 0 when it was in force at once.

        While the vector that an earlier move left is not cleaned up yet, Linux puts a further one
        off to the next interrupt (kernel/irq/manage.c, irq_try_set_affinity(), EBUSY). Then
        interrupts are raised until one has carried it out. That one masks and unmasks the store
        entry around the move (kernel/irq/migration.c, __irq_move_irq()).

        :raises CheckFailed: the move does not come into force.
        """
        (moved,) = self.control.move(store, cpu, index)
        deadline = Deadline(ANSWER_SECONDS, f"the move of {store.name} {index} to CPU {cpu}")
        taken = 0
        while moved.cpu != cpu:
            if deadline.expired:
                raise CheckFailed(f"{deadline.what} is not in force: it is on CPU {moved.cpu}")
            answer = Deadline(ANSWER_SECONDS, f"an interrupt to carry {deadline.what} out")
            self.model.raise_and_wait(store, index, answer)
            moved = self.control.interrupt(store, index)
            taken += 1
        return taken

    # Stores.

    def stores(self) -> list[StoreEntry]:
        """Return every entry of every store, the MSI-X table that QEMU keeps for us included."""
        entries = self.model.stores()
        if any(entry.address is None for entry in entries):
            table = self.msix_table()
            entries = [
                _with_message(entry, table[entry.index]) if entry.address is None else entry
                for entry in entries
            ]
        return entries

    def message(self, store: Store, index: int) -> Message:
        """Return the message as it stands in a store, seen from outside the guest."""
        entry = self.model.store_entry(store, index)
        if entry.address is None:
            entry = _with_message(entry, self.msix_table()[index])
        assert entry.address is not None
        assert entry.data is not None
        return Message(entry.address, entry.data)

    def kept_config(self, offset: int, size: int) -> int:
        """Return a register of config space as QEMU has it: it answers for MSI and MSI-X itself."""
        return read_config(self.machine.qmp, self.requester_id, offset, size)

    def msix_table(self) -> list[MessageEntry]:
        """Return the MSI-X table that QEMU's VFIO keeps, wired or not.

        Read where the guest would read it, through the monitor.
        """
        count = self.model.spec.msix_vectors
        base = self.bar_address(regs.BAR_MSIX) + regs.MSIX_TABLE_OFFSET
        size = MessageEntry.SIZE
        raw = self.machine.registers(base).read(0, count * size)
        return [MessageEntry.unpack(raw[at : at + size]) for at in range(0, count * size, size)]

    # Checks.

    def interrupts(self) -> list[Interrupt]:
        """Return every interrupt that is allocated for the function in the guest."""
        return [item for store in STORES for item in self.control.interrupts(store)]

    def audit(self) -> list[Disagreement]:
        """Hold IRTEs, the guest's interrupt list and the stores against each other (row B8).

        In the new scheme the function's handles, as the hypervisor has them, take the IRTEs' place.
        """
        interrupts = guest_interrupts(
            self._guest.irqs(),
            self.interrupts(),
            self.requester_id,
            conventional=self._conventional_buses(),
        )
        stores = self.stores()
        handles = handles_of(self.doors, self.requester_id)
        findings = []
        if handles:
            own = [item for item in interrupts if item.name is not None]
            findings = audit_handles(handles, own, stores)
            # Who claims what, and what is masked, is the same in both schemes; messages are not.
            stores = [dataclasses.replace(entry, address=None, data=None) for entry in stores]
            interrupts = [dataclasses.replace(item, message=None) for item in interrupts]
        return findings + audit(
            self.table().present_entries(),
            interrupts,
            stores,
            extended_mode=self.unit().extended_mode,
        )

    def _conventional_buses(self) -> set[int]:
        bridged = self.machine.spec.bridged_function
        return {secondary_bus(self.machine.qmp, BRIDGE)} if bridged else set()

    def check_audit(self) -> None:
        """Audit.

        :raises CheckFailed: the three views disagree; each disagreement is named.
        """
        if findings := self.audit():
            raise CheckFailed(
                f"the audit found {len(findings)} disagreements",
                evidence="\n".join(map(str, findings)),
            )

    def broken_rules(self) -> list[BrokenRule]:
        """Follow every present IRTE of the machine to the CPU that it would interrupt (row G4)."""
        mode = self.unit().extended_mode
        return broken_rules(
            self.table().present_entries(),
            online_apics(self.machine, self._guest.cpus(), extended_mode=mode),
            entry_cpus(self._guest.irqs()),
            extended_mode=mode,
        )

    def check_rules(self) -> None:
        """Look at every present IRTE, whichever device's.

        :raises CheckFailed: one breaks a rule; each is named.
        """
        if found := self.broken_rules():
            raise CheckFailed(
                f"{len(found)} rules of remapping entries are broken",
                evidence="\n".join(map(str, found)),
            )

    def dump(self) -> None:
        """Write the stores and what became of each event into the workspace; never raises."""
        ledger = self.model.ledger
        self._keep("stores", lambda: [e for e in self.stores() if e.enabled or e.address])
        self._keep("events", lambda: [*ledger.events(), *ledger.findings()])

    def _keep(self, what: str, look: Callable[[], Iterable[object]]) -> None:
        def text() -> str:
            return "".join(f"{item}\n" for item in look())

        keep(self.machine.workspace, f"{what}-{self.place.number}.txt", text)

    @contextlib.contextmanager
    def trapped(self) -> Iterator[StoreTraps]:
        """See the guest's trapped accesses to the stores while this is held."""
        table = self.bar_address(regs.BAR_MSIX) + regs.MSIX_TABLE_OFFSET
        traps = StoreTraps(self.machine.events, self.model, table)
        with self.machine.trapped_accesses():
            yield traps
        traps.end()


def _with_message(entry: StoreEntry, stored: MessageEntry) -> StoreEntry:
    return dataclasses.replace(
        entry, address=stored.address, data=stored.data, masked=bool(stored.control.mask)
    )
