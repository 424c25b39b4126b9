"""What the vIRTE call refuses: the driver's errno, and nothing else is disturbed."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest

from harness.guest.control import ControlError
from harness.host.deadline import Deadline, wait_until
from harness.hypervisor.host import Blocked
from harness.hypervisor.policy import Policy
from harness.spec.hypercall import CallStatus, Operation
from harness.spec.interrupt import Store
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import (
    Virte,
    bind,
    deliver,
    fence,
    other_cpu,
    runs,
    store_message,
    unbind,
)

pytestmark = pytest.mark.shared_vm("module")
by_store = pytest.mark.parametrize("store", STORES, ids=lambda store: store.name)


ERRNOS = {
    CallStatus.BUSY: errno.EAGAIN,
    CallStatus.NO_HANDLES: errno.ENOSPC,
    CallStatus.DENIED: errno.EPERM,
    CallStatus.UNSUPPORTED: errno.EOPNOTSUPP,
    CallStatus.FAILED: errno.EIO,
}


@pytest.mark.capability("D2")
def test_a_failed_map_is_the_drivers_errno_and_leaves_the_others_alone(
    virte: Virte, policy: Policy, device: PluggedFunction
) -> None:
    device.set_up(Store.IMS, 1)
    for status, number in ERRNOS.items():
        policy.fail(Operation.MAP, status, times=None)
        with pytest.raises(ControlError) as refused:
            device.set_up(Store.IMS, 1, index=1)
        assert refused.value.errno == number
        assert device.message(Store.IMS, 1).is_null
        deliver(device, Store.IMS, 0)
        policy.stop_failing()
        device.control.free(Store.IMS, 1)
    policy.crashes = 1  # between the two halves of the host
    with pytest.raises(ControlError, match="EIO"):
        device.set_up(Store.IMS, 1, index=1)
    device.control.free(Store.IMS, 1)
    assert virte.model.partition.live == 1
    device.set_up(Store.IMS, 1, index=1)
    deliver(device, Store.IMS, 1)


@pytest.mark.cpus(2)
@pytest.mark.capability("D3")
def test_a_failed_retarget_is_the_callers_errno_and_leaves_the_others_alone(
    virte: Virte, policy: Policy, device: PluggedFunction
) -> None:
    device.set_up(Store.IMS, 1)
    device.control.alloc(Store.MSIX, 1)  # mapped by now, and requested by RETARGET
    old = device.model.raise_and_wait(Store.IMS, 0, Deadline(10, "one before")).cpu
    assert old is not None
    for status, number in ERRNOS.items():
        policy.fail(Operation.RETARGET, status, times=None)
        with pytest.raises(ControlError) as unrequested:
            device.control.request(Store.MSIX)
        with pytest.raises(ControlError) as unmoved:
            device.control.move(Store.IMS, other_cpu(device, old))
        assert unrequested.value.errno == unmoved.value.errno == number
        policy.stop_failing()
        assert device.model.raise_and_wait(Store.IMS, 0, Deadline(10, "one after")).cpu == old
    device.control.request(Store.MSIX)
    device.move(Store.IMS, other_cpu(device, old))
    deliver(device, Store.MSIX, 0)
    deliver(device, Store.IMS, 0)


@pytest.mark.capability("D1")
def test_a_failed_negotiation_is_the_drivers_errno_and_the_old_scheme_stays(
    vm: Vm, virte: Virte, policy: Policy
) -> None:
    unbind(vm, virte.slot)
    for status, number in ERRNOS.items():
        policy.fail(Operation.NEGOTIATE, status, times=None)
        refused = vm.ssh.run(f"echo {virte.slot} > /sys/bus/pci/drivers/virte/bind", check=False)
        assert os.strerror(number) in refused.stderr
        assert not virte.model.partition.negotiated
        policy.stop_failing()
    with vm.ims_function() as device:
        device.set_up(Store.IMS, 1)
        deliver(device, Store.IMS, 0)
        assert len(device.irtes()) == 1
    bind(vm, virte.slot, "virte")
    assert virte.model.partition.negotiated


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


@pytest.mark.cpus(2)
@pytest.mark.capability("D3")
@by_store
def test_a_failed_move_is_an_error_and_the_old_cpu_keeps_the_interrupt(
    virte: Virte, policy: Policy, device: PluggedFunction, store: Store
) -> None:
    device.set_up(store, 2)
    stored = device.message(store, 0)
    old = device.model.raise_and_wait(store, 0, Deadline(10, "one before")).cpu
    assert old is not None
    new = other_cpu(device, old)
    policy.fail(Operation.RETARGET, CallStatus.NO_HANDLES)
    with pytest.raises(ControlError, match="No space left"):
        device.control.move(store, new)
    for _ in range(5):
        assert device.model.raise_and_wait(store, 0, Deadline(10, "one after")).cpu == old
    assert device.control.interrupt(store, 0).cpu == old
    assert device.message(store, 0) == stored
    device.move(store, new)
    assert device.model.raise_and_wait(store, 0, Deadline(10, "one moved")).cpu == new


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


@pytest.mark.capability("D4")
def test_a_late_message_is_blocked_when_its_number_is_in_use_again(
    virte: Virte, device: PluggedFunction
) -> None:
    host = virte.model.partition.host
    device.set_up(Store.IMS, 2)
    dead = device.message(Store.IMS, 0)
    device.control.release(Store.IMS)
    device.control.free(Store.IMS)
    # A freed number comes back last: all others are taken from the host meanwhile.
    others = [host.handles.take(1) for _ in range(host.handles.free - 1)]
    device.set_up(Store.IMS, 1, index=2)
    assert device.message(Store.IMS, 2).data == dead.data
    store_message(device, 1, dead)
    before = runs(device, Store.IMS, 2)
    device.model.raise_interrupt(Store.IMS, 1)
    wait_until(lambda: host.blocked[Blocked.NO_HANDLE] == 1, Deadline(5, "the blocked message"))
    deliver(device, Store.IMS, 2)
    assert runs(device, Store.IMS, 2) == before + 1
    for handle in others:
        assert handle is not None
        host.handles.give_back(handle, 1)


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
