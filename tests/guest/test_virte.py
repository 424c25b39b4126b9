"""The vIRTE call from a real guest: its domain stands in the place of the remapping domain.

The guest's driver negotiates as it is bound; what is bound after it is in the new scheme. The
hypervisor is the model, over its function.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from harness.devices.virte_function.function import Area, VirteFunction
from harness.guest.control import ControlError
from harness.host.deadline import Deadline, wait_until
from harness.hypervisor.entry import HostEntry
from harness.hypervisor.host import Blocked, Host
from harness.hypervisor.policy import DeliveryPath, Policy
from harness.spec.hypercall import CallStatus, Operation
from harness.spec.interrupt import Store
from harness.spec.pci import RequesterId
from harness.testbed.lender import SHARED_PORTS
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.served import ServedFunction
from harness.testbed.vm import Vm
from tests.guest.support import deliver, fence, runs, store_message

pytestmark = [
    pytest.mark.shared_vm("module"),
    pytest.mark.kernel("debian-6.12"),
    pytest.mark.machine("remapping-only"),
]

LAST_PORT = f"port{SHARED_PORTS - 1}"
"""The tests of this module take a function for each test: the last port is never reached."""

Virte = ServedFunction[VirteFunction]
by_store = pytest.mark.parametrize("store", STORES, ids=lambda store: store.name)


@pytest.fixture
def policy() -> Policy:
    """The hypervisor's policy, to be changed at any time."""
    return Policy()


@pytest.fixture
def virte(vm: Vm, policy: Policy) -> Iterator[Virte]:
    """The function of the call, with a guest that has negotiated."""
    with vm.plugged(VirteFunction(Host(4096, time.monotonic), policy)) as served:
        negotiated = served.model.partition
        wait_until(lambda: negotiated.negotiated, Deadline(20, "the guest's negotiation"))
        yield served
        unbind(vm, served)
        assert (negotiated.negotiated, negotiated.live) == (False, 0)


def unbind(vm: Vm, virte: Virte) -> None:
    vm.ssh.run(f"echo {virte.slot} > /sys/bus/pci/devices/{virte.slot}/driver/unbind")


@pytest.fixture
def device(vm: Vm, virte: Virte) -> Iterator[PluggedFunction]:
    """The IMS function, bound after the negotiation."""
    with vm.ims_function() as plugged:
        yield plugged


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
    device.control.free(store, count=4)
    assert virte.model.partition.live == 0


@pytest.mark.capability("D2")
@pytest.mark.parametrize(
    ("status", "name"),
    [
        (CallStatus.BUSY, "EAGAIN"),
        (CallStatus.NO_HANDLES, "ENOSPC"),
        (CallStatus.DENIED, "EPERM"),
        (CallStatus.UNSUPPORTED, "EOPNOTSUPP"),
        (CallStatus.FAILED, "EIO"),
    ],
    ids=lambda value: str(value),
)
def test_a_failed_map_is_the_drivers_errno_and_leaves_the_others_alone(
    virte: Virte, policy: Policy, device: PluggedFunction, status: CallStatus, name: str
) -> None:
    device.set_up(Store.IMS, 1)
    device.control.alloc(Store.IMS, 1, index=1)
    policy.fail(Operation.MAP, status, times=None)
    with pytest.raises(ControlError) as refused:
        device.control.request(Store.IMS, index=1)
    assert refused.value.errno == getattr(__import__("errno"), name)
    assert device.message(Store.IMS, 1).is_null
    deliver(device, Store.IMS, 0)
    policy.stop_failing()
    device.control.request(Store.IMS, index=1)
    deliver(device, Store.IMS, 1)


@pytest.mark.capability("D5")
def test_a_host_out_of_interrupts_fails_the_drivers_own_call(
    virte: Virte, policy: Policy, device: PluggedFunction
) -> None:
    policy.quota = 2
    device.set_up(Store.IMS, 2)
    with pytest.raises(ControlError, match="No space left"):
        device.control.alloc(Store.MSIX, 1)
    deliver(device, Store.IMS, 0, 1)
    device.control.release(Store.IMS, index=1)
    device.control.free(Store.IMS, index=1)
    device.set_up(Store.MSIX, 1)
    deliver(device, Store.MSIX, 0)


@pytest.mark.capability("D3")
@by_store
def test_a_failed_move_is_an_error_and_the_old_cpu_keeps_the_interrupt(
    virte: Virte, policy: Policy, device: PluggedFunction, store: Store
) -> None:
    device.set_up(store, 2)
    stored = device.message(store, 0)
    old = device.model.raise_and_wait(store, 0, Deadline(10, "one before")).cpu
    assert old is not None
    policy.fail(Operation.RETARGET, CallStatus.NO_HANDLES)
    with pytest.raises(ControlError, match="No space left"):
        device.control.move(store, 1 - old)
    for _ in range(5):
        assert device.model.raise_and_wait(store, 0, Deadline(10, "one after")).cpu == old
    assert device.control.interrupt(store, 0).cpu == old
    assert device.message(store, 0) == stored
    device.move(store, 1 - old)
    assert device.model.raise_and_wait(store, 0, Deadline(10, "one moved")).cpu == 1 - old


@pytest.mark.capability("D4")
def test_a_late_message_with_a_dead_handle_is_blocked_and_counted(
    virte: Virte, device: PluggedFunction
) -> None:
    device.set_up(Store.IMS, 3)
    dead = device.message(Store.IMS, 0)
    device.control.release(Store.IMS)
    device.control.free(Store.IMS)
    host = virte.model.partition.host
    store_message(device, 2, dead)
    before = runs(device, Store.IMS, 2)
    device.model.raise_interrupt(Store.IMS, 2)
    wait_until(lambda: host.blocked[Blocked.NO_HANDLE] == 1, Deadline(5, "the blocked message"))
    fence(device, Store.IMS, 1)
    assert runs(device, Store.IMS, 2) == before


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


def test_a_call_is_one_trapped_access(virte: Virte, device: PluggedFunction) -> None:
    device.set_up(Store.IMS, 1)
    deliver(device, Store.IMS, 0)
    mark = virte.model.accesses.mark()
    calls = len(virte.model.calls)
    with device.trapped() as traps:
        device.move(Store.IMS, 1)
    counts = virte.model.accesses.counts_since(mark)
    made = list(virte.model.calls)[calls:]
    assert {call.request.operation for call in made} == {Operation.RETARGET}
    assert counts[Area.CALLS].total == len(made)
    assert counts[Area.FRAMES].total == counts[Area.REGISTERS].total == 0
    assert traps[Store.IMS] == 0 or len(made) > 1


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
    unbind(vm, virte)
    assert (virte.model.partition.negotiated, virte.model.partition.live) == (False, 0)
    device.bind()
    device.set_up(Store.IMS, 4)
    deliver(device, Store.IMS, *range(4))
    assert len(device.irtes()) == 4
    device.unbind()
    vm.ssh.run(f"echo {virte.slot} > /sys/bus/pci/drivers/virte/bind")
    device.bind()
    device.set_up(Store.IMS, 1)
    deliver(device, Store.IMS, 0)
    assert virte.model.partition.live == 1


@pytest.mark.capability("D8")
def test_a_message_that_names_another_functions_handle_is_blocked(
    vm: Vm, virte: Virte, device: PluggedFunction
) -> None:
    with vm.ims_function() as owner:
        owner.set_up(Store.IMS, 1)
        device.set_up(Store.IMS, 3)
        own, foreign = device.message(Store.IMS, 2), owner.message(Store.IMS, 0)
        store_message(device, 2, replace(own, data=foreign.data))
        blocked = virte.model.partition.host.blocked
        device.model.raise_interrupt(Store.IMS, 2)
        wait_until(lambda: blocked.total() == 1, Deadline(5, "the blocked message"))
        fence(device, Store.IMS, 1)
        owner.model.ledger.assert_quiet()
        deliver(owner, Store.IMS, 0)


ADDRESS = "52:54:00:12:34:99"
FIND = f"grep -l {ADDRESS} /sys/class/net/*/address | cut -d/ -f5"


@pytest.mark.capability("D7")
def test_a_stock_network_driver_runs_its_msix_over_the_call(vm: Vm, virte: Virte) -> None:
    net = {"net": "10.0.5.0/24", "host": "10.0.5.2"}
    vm.machine.qmp.execute("netdev_add", {"type": "user", "id": "second", **net})
    card = {"id": "stock", "netdev": "second", "mac": ADDRESS, "romfile": ""}
    vm.machine.plug({"driver": "virtio-net-pci", "bus": LAST_PORT, **card})

    def entries() -> list[HostEntry]:
        return virte.model.partition.entries()

    def delivered() -> int:
        return sum(entry.delivered for entry in entries())

    def carry_traffic() -> None:
        deadline = Deadline(20, "the second network interface")
        name = wait_until(lambda: vm.ssh.run(FIND).stdout.strip(), deadline)
        vm.ssh.run(f"ifconfig {name} 10.0.5.15 netmask 255.255.255.0 up")
        before = delivered()
        told = vm.ssh.run("ping -q -c 100 -i 0.01 10.0.5.2").stdout
        assert "100 packets received" in told
        assert delivered() > before + 50

    carry_traffic()
    assert {entry.source.store for entry in entries()} == {Store.MSIX}
    (requester,) = {RequesterId(entry.source.origin.requester) for entry in entries()}
    numbers = f"$(ls /sys/bus/pci/devices/{requester.slot}/msi_irqs)"
    for cpu in (1, 0):
        vm.ssh.run(f"for irq in {numbers}; do echo {cpu} > /proc/irq/$irq/smp_affinity_list; done")
        carry_traffic()

    driver = "/sys/bus/pci/drivers/virtio-pci"
    vm.ssh.run(f"echo {requester.slot} > {driver}/unbind")
    assert entries() == []
    vm.ssh.run(f"echo {requester.slot} > {driver}/bind")
    carry_traffic()
