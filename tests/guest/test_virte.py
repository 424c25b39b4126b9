"""The vIRTE call from a real guest: each store, both ways of delivery, and the scheme in force."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.devices.virte_function.function import Area, VirteFunction
from harness.host.deadline import Deadline, wait_until
from harness.hypervisor.host import Host
from harness.hypervisor.policy import DeliveryPath, Policy
from harness.spec.hypercall import CallStatus, Operation
from harness.spec.interrupt import Store
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import Virte, bind, deliver, other_cpu, unbind

pytestmark = pytest.mark.shared_vm("module")
by_store = pytest.mark.parametrize("store", STORES, ids=lambda store: store.name)

GRANTS = 10


@pytest.mark.cpus(2)
@pytest.mark.capability("D2", "D3")
@by_store
def test_interrupts_of_each_store_are_mapped_delivered_moved_and_given_back(
    virte: Virte, device: PluggedFunction, store: Store
) -> None:
    device.set_up(store, 4)
    stored = [device.message(store, index) for index in range(4)]
    deliver(device, store, *range(4))
    for cpu in (1, 0):
        for index in range(4):
            device.move(store, cpu, index)
            event = device.model.raise_and_wait(store, index, Deadline(10, f"one on CPU {cpu}"))
            assert event.cpu == cpu
    assert [device.message(store, index) for index in range(4)] == stored
    assert virte.model.partition.live == 4
    assert device.irtes() == {}
    device.control.release(store, count=4)
    # Parked: the vectors may be somebody else's by now.
    assert {entry.route for entry in virte.model.partition.entries()} == {None}
    device.control.free(store, count=4)
    assert virte.model.partition.live == 0


@pytest.mark.cpus(2)
@pytest.mark.capability("D1")
def test_what_is_bound_as_soon_as_the_host_has_granted_is_in_the_new_scheme(
    vm: Vm, virte: Virte, device: PluggedFunction
) -> None:
    partition = virte.model.partition
    for _ in range(GRANTS):
        vm.control.unbind(device.slot)
        unbind(vm, virte.slot)
        with ThreadPoolExecutor(1) as pool:
            granted = pool.submit(bind, vm, virte.slot, "virte")
            late = Deadline(10, "the grant")
            while not partition.negotiated and not late.expired:
                pass  # its driver may not have heard of it yet; a wait would wake us too late
            vm.control.bind(device.slot)
            granted.result()
        assert device.control.facts().msi_parent.startswith("VIRTE")


@pytest.mark.capability("D6")
@pytest.mark.parametrize("path", list(DeliveryPath), ids=lambda path: path.name)
def test_both_ways_of_delivery_work_and_a_slow_host_is_waited_for(
    virte: Virte, policy: Policy, device: PluggedFunction, path: DeliveryPath
) -> None:
    policy.delivery = path
    policy.start_seconds = 0.0005
    device.set_up(Store.IMS, 2)
    deliver(device, Store.IMS, 0, 1, 0, 1)
    busy = [call for call in virte.model.calls if call.answer.status == CallStatus.BUSY]
    assert busy
    assert (virte.model.partition.host.handled == 4) == (path is DeliveryPath.HOST_HANDLER)


@pytest.mark.cpus(2)
def test_a_call_is_one_trapped_access(virte: Virte, device: PluggedFunction) -> None:
    device.set_up(Store.IMS, 1)
    deliver(device, Store.IMS, 0)
    cpu = other_cpu(device, device.control.interrupt(Store.IMS).cpu)
    mark = virte.model.accesses.mark()
    calls = len(virte.model.calls)
    with device.trapped() as traps:
        device.move(Store.IMS, cpu)
    counts = virte.model.accesses.counts_since(mark)
    made = list(virte.model.calls)[calls:]
    assert {call.request.operation for call in made} == {Operation.RETARGET}
    assert counts[Area.CALLS].total == len(made)
    assert counts[Area.FRAMES].total == counts[Area.REGISTERS].total == 0
    assert traps[Store.IMS] == 0 or len(made) > 1


def test_what_is_parked_already_is_not_parked_again(virte: Virte, device: PluggedFunction) -> None:
    # Linux activates a vector of MSI-X when it is allocated, with a placeholder for its route.
    device.control.alloc(Store.MSIX, 2)
    device.control.free(Store.MSIX, count=2)
    calls = virte.model.calls[1:]  # NEGOTIATE
    assert [call.request.operation for call in calls] == [Operation.MAP] * 2 + [Operation.UNMAP] * 2


@pytest.mark.capability("D1")
def test_a_refused_guest_stays_in_the_old_scheme(vm: Vm) -> None:
    refusing = VirteFunction(Host(64, time.monotonic), Policy(grant=False))
    with vm.plugged(refusing):
        wait_until(lambda: bool(refusing.calls), Deadline(20, "the guest's negotiation"))
        assert refusing.calls[0].answer.status == CallStatus.DENIED
        with vm.ims_function() as device:
            for store in (Store.MSIX, Store.IMS):
                device.set_up(store, 2)
                deliver(device, store, 0, 1)
            assert len(device.irtes()) == 4
            device.check_audit()
    assert len(refusing.calls) == 1


@pytest.mark.capability("D1")
def test_both_sides_go_back_when_the_guest_leaves(
    vm: Vm, virte: Virte, device: PluggedFunction
) -> None:
    device.set_up(Store.IMS, 4)
    unbind(vm, virte.slot)
    assert (virte.model.partition.negotiated, virte.model.partition.live) == (False, 0)
    device.bind()
    device.set_up(Store.IMS, 4)
    deliver(device, Store.IMS, *range(4))
    assert len(device.irtes()) == 4
    device.unbind()
    bind(vm, virte.slot, "virte")
    device.bind()
    device.set_up(Store.IMS, 1)
    deliver(device, Store.IMS, 0)
    assert virte.model.partition.live == 1
