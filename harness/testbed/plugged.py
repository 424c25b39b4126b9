"""An IMS function in a running guest: its model, its driver, and every way to look at it."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from harness.devices.ims_function.address_map import Area
from harness.devices.ims_function.function import ImsFunction
from harness.errors import CheckFailed, GuestCommandError, HarnessError
from harness.guest.control import Control
from harness.guest.facts import Function, Interrupt
from harness.host.deadline import Deadline
from harness.pci.store import StoreEntry
from harness.qemu.machine import Machine
from harness.qemu.trace import MSIX_TABLE
from harness.remapping.audit import Finding, audit
from harness.remapping.unit import RemappingTable, UnitState
from harness.spec import ims_function as regs
from harness.spec.interrupt import Store
from harness.spec.msi import Message, MessageEntry
from harness.spec.vtd import Entry, RemappedEntry
from harness.testbed.source_gate import SourceGate
from harness.testbed.views import guest_interrupts
from harness.vfio_user.server import DeviceServer

BIND_SECONDS: Final = 20.0
BIND_ROUND_MS: Final = 250
"""How long the guest waits for its driver before the server is looked at again."""
ANSWER_SECONDS: Final = 5.0
STORES: Final = (Store.MSI, Store.MSIX, Store.IMS)


@dataclass(slots=True)
class StoreTraps:
    """Trapped guest accesses by store, over one measurement; good when it has ended."""

    counts: dict[Store, int] = field(default_factory=dict)

    def __getitem__(self, store: Store) -> int:
        return self.counts[store]


class PluggedFunction:
    """A function in the guest. Made by ``Vm.plugged``."""

    def __init__(
        self,
        machine: Machine,
        control: Control,
        function: ImsFunction,
        server: DeviceServer,
        gate: SourceGate,
        unit: Callable[[], UnitState] | None,
        identifier: str,
    ):
        self.machine = machine
        self.control = control
        """The driver's operations, in the guest."""
        self.model = function
        """The device's own view: events, accesses, stores."""
        self.server = server
        self._gate = gate
        self._identifier = identifier
        self._unit = unit
        self._facts: Function | None = None
        self.requester_id = 0
        """Bus, device and function, as in the source id of an IRTE."""

    def bind(self) -> None:
        """Wait for the guest's driver, and learn where the function is."""
        self._facts = self._wait_bound()
        self.requester_id = parse_slot(self._facts.slot)
        self._gate.watch(self.requester_id)

    def _wait_bound(self) -> Function:
        deadline = Deadline(BIND_SECONDS, "the guest's driver binding the function")
        while True:
            self.server.check()
            try:
                return self.control.function(wait_ms=BIND_ROUND_MS)
            except GuestCommandError as error:
                deadline.check(error.message)

    @property
    def slot(self) -> str:
        """PCI name in the guest, e.g. ``0000:01:00.0``."""
        assert self._facts is not None
        return self._facts.slot

    # IRTEs.

    def unit(self) -> UnitState:
        """Return the state of the remapping unit in front of the function.

        :raises HarnessError: there is none, or remapping is off.
        """
        unit = self._unit() if self._unit else None
        if unit is None or not unit.remapping_enabled:
            raise HarnessError("there is no interrupt remapping in front of the function")
        return unit

    def table(self) -> RemappingTable:
        """Return the remapping table that the function's messages go through.

        :raises HarnessError: remapping is off.
        """
        return RemappingTable.of(self.unit(), self.machine.memory)

    def irtes(self) -> dict[int, Entry]:
        """Return the present IRTEs whose source id is this function, by index."""
        return {
            index: entry
            for index, entry in self.table().present_entries().items()
            if getattr(entry, "source_id", None) == self.requester_id
        }

    def irte(self, message: Message) -> Entry:
        """Return the IRTE that a message names.

        :raises CheckFailed: the message is in compatibility format, or names none.
        """
        request = message.decode() if message.is_interrupt else None
        index = getattr(request, "index", None)
        if index is None:
            raise CheckFailed(f"{message} does not name an IRTE")
        return self.table().read_entry(index)

    def destination(self, entry: RemappedEntry) -> int:
        """Return the destination in an IRTE, as this machine's APIC mode has it."""
        return entry.destination(extended_mode=self.unit().extended_mode)

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
            table = self._msix_table()
            entries = [
                _with_message(entry, table[entry.index]) if entry.address is None else entry
                for entry in entries
            ]
        return entries

    def message(self, store: Store, index: int) -> Message:
        """Return the message as it stands in a store, seen from outside the guest."""
        for entry in self.stores():
            if (entry.store, entry.index) == (store, index):
                assert entry.address is not None
                assert entry.data is not None
                return Message(entry.address, entry.data)
        raise ValueError(f"the function has no interrupt {store.name} {index}")

    def _msix_table(self) -> list[MessageEntry]:
        # Read where the guest would read it, through the monitor: QEMU's VFIO keeps the table.
        count = self.model.spec.msix_vectors
        base = self._bar_address(regs.BAR_MSIX) + regs.MSIX_TABLE_OFFSET
        text = self.machine.qmp.human(f"xp /{count * 4}wx {base:#x}")
        words = [int(word, 16) for word in re.findall(r"\b0x[0-9a-f]{8}\b", text)]
        raw = b"".join(word.to_bytes(4, "little") for word in words)
        size = MessageEntry.SIZE
        return [MessageEntry.unpack(raw[at : at + size]) for at in range(0, count * size, size)]

    def _bar_address(self, bar: int) -> int:
        for bus in self.machine.qmp.execute("query-pci"):
            for bridge in bus["devices"]:
                for device in bridge.get("pci_bridge", {}).get("devices", []):
                    if device["qdev_id"] == self._identifier:
                        return next(
                            int(region["address"])
                            for region in device["regions"]
                            if region["bar"] == bar
                        )
        raise HarnessError(f"QEMU has no device {self._identifier}")

    # Checks.

    def interrupts(self) -> list[Interrupt]:
        """Return every interrupt that is allocated for the function in the guest."""
        return [item for store in STORES for item in self.control.interrupts(store)]

    def audit(self) -> list[Finding]:
        """Hold IRTEs, the guest's interrupt list and the stores against each other (row B8)."""
        return audit(
            self.table().present_entries(),
            guest_interrupts(self.control.irqs(), self.interrupts(), self.requester_id),
            self.stores(),
            extended_mode=self.unit().extended_mode,
        )

    def check_audit(self) -> None:
        """Audit.

        :raises CheckFailed: the three views disagree; each disagreement is named.
        """
        if findings := self.audit():
            raise CheckFailed(
                f"the audit found {len(findings)} disagreements",
                evidence="\n".join(map(str, findings)),
            )

    def dump(self) -> None:
        """Write the stores and what became of each event into the machine's workspace."""
        workspace = self.machine.workspace
        with contextlib.suppress(HarnessError):
            shown = [entry for entry in self.stores() if entry.enabled or entry.address]
            workspace.write("stores.txt", "".join(f"{entry}\n" for entry in shown))
        events = [*self.model.ledger.events(), *self.model.ledger.findings()]
        workspace.write("events.txt", "".join(f"{event}\n" for event in events))
        accesses = self.model.accesses.accesses()
        workspace.write("accesses.txt", "".join(f"{access}\n" for access in accesses))

    @contextlib.contextmanager
    def trapped(self) -> Iterator[StoreTraps]:
        """Count the guest's trapped accesses to the stores while this is held.

        All of them arrive at the model but those to the MSI-X table, which end in QEMU.
        """
        traps = StoreTraps()
        mark = self.model.accesses.mark()
        with self.machine.trapped_accesses() as in_qemu:
            yield traps
        seen = self.model.accesses.counts_since(mark)
        # QEMU gives the tables of all functions the same name.
        base = self._bar_address(regs.BAR_MSIX)
        ours = range(base, base + regs.BAR_MSIX_SIZE)
        traps.counts = {
            Store.MSI: seen[Area.MSI].total,
            Store.MSIX: seen[Area.MSIX_CONTROL].total
            + seen[Area.MSIX_PBA].total
            + in_qemu.count(MSIX_TABLE, within=ours),
            Store.IMS: seen[Area.IMS].total,
        }


def _with_message(entry: StoreEntry, stored: MessageEntry) -> StoreEntry:
    return dataclasses.replace(
        entry, address=stored.address, data=stored.data, masked=bool(stored.control.mask)
    )


def parse_slot(slot: str) -> int:
    """Return the requester id of a PCI name: bus in 15:8, device in 7:3, function in 2:0.

    :raises ValueError: it is not a PCI name.
    """
    match = re.fullmatch(r"[0-9a-f]{4}:([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", slot)
    if match is None:
        raise ValueError(f"not a PCI name: {slot!r}")
    bus, device, function = (int(part, 16) for part in match.groups())
    return bus << 8 | device << 3 | function
