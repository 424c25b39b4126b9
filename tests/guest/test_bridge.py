"""Row B2: the source id of a conventional function behind a PCI Express to PCI bridge."""

from __future__ import annotations

import pytest

from harness.guest.facts import MachineInterrupt
from harness.host.deadline import Deadline
from harness.qemu.command import BRIDGE
from harness.qemu.pci import secondary_bus
from harness.remapping.audit import Kind, audit
from harness.remapping.linux import entry_index
from harness.spec.pci import RequesterId
from harness.spec.vtd import ENTRY_SIZE, FaultReason, RemappedEntry, SourceValidation
from harness.testbed.views import bus_range, guest_interrupts, remapping_level
from harness.testbed.vm import Vm
from tests.guest.support import sender_of

pytestmark = [
    pytest.mark.capability("B2"),
    pytest.mark.kernel("debian-6.12"),
    pytest.mark.machine("bridged"),
]

READ_ENTROPY = "dd if=/dev/hwrng of=/dev/null bs=4096 count=4 2>/dev/null"
"""Far more than the kernel has in stock: it needs interrupts of the function."""


def entries_of(vm: Vm, bus: int) -> dict[int, RemappedEntry]:
    """Return the IRTEs of the functions on a bus, by index."""
    senders = zip(vm.control.irqs(), guest_interrupts(vm.control.irqs()), strict=True)
    found = {}
    for item, view in senders:
        if view.source_id is not None and view.source_id.bus == bus and item.activated:
            index = index_of(item)
            entry = vm.observer.table().read_entry(index)
            assert isinstance(entry, RemappedEntry)
            found[index] = entry
    return found


def index_of(item: MachineInterrupt) -> int:
    level = remapping_level(item)
    assert level is not None
    return entry_index(level.hwirq)


def findings(vm: Vm, bus: int) -> set[Kind]:
    """Return what the audit of the whole machine finds."""
    table, unit = vm.observer.table(), vm.observer.unit()
    assert unit is not None
    return {
        item.kind
        for item in audit(
            table.present_entries(),
            guest_interrupts(vm.control.irqs(), conventional={bus}),
            [],
            extended_mode=unit.extended_mode,
        )
    }


def test_an_irte_admits_the_bus_behind_the_bridge_and_no_other(vm: Vm) -> None:
    bus = secondary_bus(vm.machine.qmp, BRIDGE)
    entries = entries_of(vm, bus)
    assert entries
    for entry in entries.values():
        assert entry.source_validation == SourceValidation.BUS_RANGE
        assert entry.source_id == bus_range(bus)
    assert findings(vm, bus) == set()
    vm.ssh.run(READ_ENTROPY)

    # What the audit says of it, and the unit, when the entry admits another bus.
    table = vm.observer.table()
    for index, entry in entries.items():
        wrong = entry.replace(source_id=bus_range(bus + 1))
        vm.machine.memory.write(table.address + index * ENTRY_SIZE, wrong.pack())
    assert findings(vm, bus) == {Kind.WRONG_SOURCE_ID}
    vm.ssh.run(f"({READ_ENTROPY} </dev/null >/dev/null &)")
    blocked = Deadline(5, "the record of the fault")
    fault = vm.expect_fault(FaultReason.SOURCE_ID_MISMATCH, max(entries), blocked)
    assert sender_of(fault) == RequesterId.of(bus), "the bridge has put its own id on the message"
