"""Row D11, the road not taken: compatibility format by source id. What breaks without the call."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from harness.devices.delivery import Routed
from harness.devices.ledger import Event, Fate
from harness.host.deadline import Deadline, wait_until
from harness.hypervisor.source_translation import SourceTranslation
from harness.spec.interrupt import Store
from harness.spec.msi import CompatibilityMessage, Message, RemappableMessage
from harness.spec.pci import RequesterId
from harness.spec.vtd import FaultReason
from harness.testbed.plugged import PluggedFunction
from harness.testbed.views import bus_range
from harness.testbed.vm import Vm
from tests.guest.support import (
    as_without_remapping,
    damaged,
    deliver,
    give_back,
    other_cpu,
    runs,
    sender_of,
)

pytestmark = [
    pytest.mark.capability("D11"),
    pytest.mark.machine("remapping-only"),
    pytest.mark.shared_vm("module"),
]

GUEST = "this guest"
ANOTHER = "another guest"


@dataclass(frozen=True, slots=True)
class ByTheHost:
    """The host's remapping, in the place of the guest's own."""

    host: SourceTranslation
    requester_id: RequesterId

    def route(self, store: Store, index: int, message: Message) -> Routed:
        return self.host.receive(message, self.requester_id, GUEST)


def host_for(device: PluggedFunction, interrupts: int) -> SourceTranslation:
    """Let a host with so many interrupts translate what a device of the guest sends."""
    host = SourceTranslation(interrupts, {device.requester_id: GUEST})
    device.model.guard(ByTheHost(host, device.requester_id))
    return host


def compose(device: PluggedFunction, index: int) -> Message:
    """Have the guest write what it would without remapping into an entry of the array."""
    own = device.control.interrupt(Store.IMS, index).composed
    message = as_without_remapping(device, own)
    device.control.write(Store.IMS, index, message)
    return message


def blocked(device: PluggedFunction, index: int) -> Event:
    """Raise an interrupt, and see that it is lost and the guest not told."""
    before = runs(device, Store.IMS, index)
    event = device.model.raise_interrupt(Store.IMS, index)
    assert event.fate is Fate.BLOCKED
    assert runs(device, Store.IMS, index) == before
    assert device.control.interrupt(Store.IMS, index).requested
    return event


def test_no_call_is_needed_while_two_interrupts_differ_in_the_vector(
    ims_device: PluggedFunction,
) -> None:
    host = host_for(ims_device, 8)
    ims_device.set_up(Store.IMS, 2)
    for index in (0, 1):
        ims_device.move(Store.IMS, 0, index)
    first, second = (compose(ims_device, index) for index in (0, 1))
    assert first.address == second.address
    assert isinstance(second.decode(), CompatibilityMessage)
    deliver(ims_device, Store.IMS, 0, 1, 1)
    assert sorted(host.seen.values()) == [1, 2]
    give_back(ims_device, Store.IMS, count=0)


def test_a_move_looks_like_a_new_interrupt_and_the_old_one_stays_for_good(
    ims_device: PluggedFunction,
) -> None:
    host = host_for(ims_device, 1)
    ims_device.set_up(Store.IMS, 1)
    compose(ims_device, 0)
    deliver(ims_device, Store.IMS, 0)
    ims_device.move(Store.IMS, other_cpu(ims_device, ims_device.control.interrupt(Store.IMS).cpu))
    compose(ims_device, 0)  # the store has to change with the route
    event = blocked(ims_device, 0)
    assert "the host has no interrupt left" in event.reason
    give_back(ims_device, Store.IMS, count=0)
    assert len(host.seen) == 1, "nobody has said that it is gone"


@pytest.mark.leaves("events", "audit")
def test_two_interrupts_that_differ_in_nothing_are_quenched_together(
    ims_device: PluggedFunction,
) -> None:
    host = host_for(ims_device, 8)
    ims_device.set_up(Store.IMS, 2)
    first = compose(ims_device, 0)
    ims_device.control.write(Store.IMS, 1, first)
    deliver(ims_device, Store.IMS, 0)
    ims_device.model.raise_interrupt(Store.IMS, 1)
    wait_until(lambda: runs(ims_device, Store.IMS, 0) == 2, Deadline(5, "the other's handler"))
    assert runs(ims_device, Store.IMS, 1) == 0
    (storming,) = host.seen
    host.quenched.add(storming)
    for index in (0, 1):
        assert "quenched" in blocked(ims_device, index).reason
    give_back(ims_device, Store.IMS, count=0)


@pytest.mark.leaves("events")
def test_another_guests_device_is_told_by_its_source_id(vm: Vm) -> None:
    with vm.ims_function() as ours, vm.ims_function() as others:
        host = SourceTranslation(8, {ours.requester_id: GUEST, others.requester_id: ANOTHER})
        for device in (ours, others):
            device.model.guard(ByTheHost(host, device.requester_id))
        share_a_pair(ours, others)
        deliver(ours, Store.IMS, 0)
        assert "its sender is not of this guest" in blocked(others, 0).reason
        for device in (ours, others):
            give_back(device, Store.IMS, count=0)


@pytest.mark.machine("bridged")
@pytest.mark.kernel("debian-6.12")
@pytest.mark.leaves("events")
def test_behind_a_bridge_another_guests_device_passes_for_ours(vm: Vm) -> None:
    with vm.ims_function(bridged=True) as ours, vm.ims_function(bridged=True) as others:
        (alias,) = {source_id_on_a_message(vm, device) for device in (ours, others)}
        assert alias not in (ours.requester_id, others.requester_id)
        host = SourceTranslation(8, {alias: GUEST})
        for device in (ours, others):
            device.model.guard(ByTheHost(host, alias))
        share_a_pair(ours, others)
        deliver(ours, Store.IMS, 0)
        before = runs(ours, Store.IMS, 0)
        assert others.model.raise_interrupt(Store.IMS, 0).fate is Fate.SENT
        wait_until(lambda: runs(ours, Store.IMS, 0) > before, Deadline(5, "our handler"))
        assert ours.control.interrupt(Store.IMS).spurious == 1
        for device in (ours, others):
            give_back(device, Store.IMS, count=0)


def share_a_pair(ours: PluggedFunction, others: PluggedFunction) -> None:
    """Have both devices send what leads to an interrupt of ours."""
    for device in (ours, others):
        device.set_up(Store.IMS, 1)
    others.control.write(Store.IMS, 0, compose(ours, 0))


def source_id_on_a_message(vm: Vm, device: PluggedFunction) -> RequesterId:
    """Return what the guest's remapping unit sees on MSI-X of a device: it records what it blocks.

    Those QEMU sends itself, with a source id; our model's own messages, those of IMS, have none.
    """
    device.set_up(Store.MSIX, 1)
    request = device.message(Store.MSIX, 0).decode()
    assert isinstance(request, RemappableMessage)
    with damaged(vm, device, 0, Store.MSIX, source_id=bus_range(0x7F)):
        device.model.raise_interrupt(Store.MSIX, 0)
        recorded = Deadline(5, "the record of the fault")
        fault = vm.expect_fault(FaultReason.SOURCE_ID_MISMATCH, request.index, recorded)
    device.control.release(Store.MSIX)
    device.control.free(Store.MSIX)
    return sender_of(fault)
