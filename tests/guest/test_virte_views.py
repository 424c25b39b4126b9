"""The call seen from outside: events of the stream, the audit, the evidence of a failure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.devices.virte_function.events import Called, ReturnedToOldScheme, Signalled
from harness.hypervisor.entry import Route
from harness.remapping.audit import Kind
from harness.spec.hypercall import Operation
from harness.spec.interrupt import Store
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import Virte, deliver, unbind

pytestmark = [
    pytest.mark.shared_vm("module"),
    pytest.mark.kernel("debian-6.12"),
    pytest.mark.machine("remapping-only"),
]


@pytest.mark.capability("D2", "B8")
def test_the_audit_holds_the_hypervisors_handles_against_guest_and_stores(
    virte: Virte, device: PluggedFunction
) -> None:
    for store in STORES:
        device.set_up(store, 3)
        device.check_audit()
        device.move(store, 1)
        device.check_audit()
        device.control.release(store, count=3)
        device.control.free(store, count=3)
    device.set_up(Store.IMS, 2)
    entry = virte.model.partition.entries()[1]
    assert isinstance(entry.route, Route)
    entry.route = replace(entry.route, vector=entry.route.vector + 1)
    assert [found.kind for found in device.audit()] == [Kind.WRONG_VECTOR]
    entry.route = replace(entry.route, vector=entry.route.vector - 1)
    device.check_audit()


@pytest.mark.capability("D2")
def test_calls_messages_and_the_return_are_events_of_the_machine(
    vm: Vm, virte: Virte, device: PluggedFunction
) -> None:
    events = vm.machine.events
    mark = events.mark()
    device.set_up(Store.IMS, 1)
    deliver(device, Store.IMS, 0)
    device.unbind()
    unbind(vm, virte.slot)
    calls = [event.answered.request.operation for event in events.of(Called, mark)]
    assert {Operation.MAP, Operation.UNMAP, Operation.RELEASE} <= set(calls)
    (message,) = events.of(Signalled, mark)
    calls_before = [event for event in events.of(Called, mark) if event.when < message.when]
    assert Operation.MAP in {event.answered.request.operation for event in calls_before}
    assert events.of(ReturnedToOldScheme, mark) == []  # it was released, not lost
    vm.ssh.run(f"echo {virte.slot} > /sys/bus/pci/drivers/virte/bind")


def test_the_evidence_of_a_failure_has_the_handles_and_the_last_calls(
    vm: Vm, virte: Virte, device: PluggedFunction
) -> None:
    device.set_up(Store.IMS, 1)
    (entry,) = virte.model.partition.entries()
    vm.dump()
    (number,) = (number for number, door in enumerate(vm.doors) if door is virte.model)
    kept = vm.workspace.path(f"virte-{number}.txt").read_text()
    assert str(entry) in kept
    assert f"MAP of 1: OK, 1 done; IMS 0 of {device.requester_id}" in kept
