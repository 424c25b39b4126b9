"""Row E5: the host refuses an interrupt behind a trapped store, and the guest is never told."""

from __future__ import annotations

import errno
import time

import pytest

from harness.devices.ledger import Fate
from harness.devices.virte_function.function import VirteFunction
from harness.errors import CheckFailed
from harness.guest.control import ControlError
from harness.host.deadline import Deadline
from harness.hypervisor.host import Host
from harness.hypervisor.trap_path import TrapPath
from harness.spec.interrupt import Store
from harness.testbed.plugged import PluggedFunction
from harness.testbed.silent_failure import check_no_silent_failure, silent_failures
from harness.testbed.vm import Vm
from tests.guest.support import deliver, runs

pytestmark = [
    pytest.mark.capability("E5"),
    pytest.mark.shared_vm("module"),
]


def trapped_by(plugged: PluggedFunction, interrupts: int) -> TrapPath:
    """Let a function's host interrupts come from a host that has so many."""
    trap_path = plugged.model.trap_path = TrapPath(Host(interrupts, time.monotonic))
    return trap_path


def never_comes(plugged: PluggedFunction, store: Store, index: int) -> None:
    """Raise an interrupt whose guest believes in it, and see that it is blocked, and why."""
    before = runs(plugged, store, index)
    event = plugged.model.raise_interrupt(store, index)
    assert event.fate is Fate.BLOCKED
    assert "the host refused" in event.reason
    assert runs(plugged, store, index) == before


@pytest.mark.parametrize("store", [Store.MSI, Store.MSIX], ids=lambda store: store.name)
def test_a_host_without_interrupts_is_silent_and_the_guest_believes(
    ims_device: PluggedFunction, store: Store
) -> None:
    trap_path = trapped_by(ims_device, 2)
    ims_device.set_up(store, 4)  # no error reaches the driver
    refused = {failure.interrupt.index for failure in silent_failures(ims_device)}
    # MSI is set up as one block, MSI-X vector by vector.
    assert refused == ({0, 1, 2, 3} if store is Store.MSI else {2, 3})
    assert {refusal.error for refusal in trap_path.refusals} == {errno.ENOSPC}
    for index in refused:
        never_comes(ims_device, store, index)
    deliver(ims_device, store, *({0, 1} - refused))
    with pytest.raises(CheckFailed, match="the guest was not told") as flagged:
        check_no_silent_failure(ims_device)
    assert f"{store.name} 3 with ENOSPC" in str(flagged.value.evidence)

    ims_device.control.release(store, count=4)
    ims_device.control.free(store, count=4)
    check_no_silent_failure(ims_device)
    assert trap_path.host.handles.free == 2


@pytest.mark.kernel("debian-6.12")
@pytest.mark.machine("remapping-only")
def test_no_errno_of_the_host_reaches_the_driver(ims_device: PluggedFunction) -> None:
    # ENOMEM is Linux's word for no IRTE (test_allocation), ENOSPC for no vector (test_activation).
    errors = [errno.EINVAL, errno.ENOMEM, errno.EBUSY, errno.EFAULT, errno.EIO, errno.EPERM]
    trap_path = trapped_by(ims_device, 64)
    for error in errors:
        trap_path.fail(error)
        ims_device.set_up(Store.MSIX, 1)
        (failure,) = silent_failures(ims_device)
        assert failure.error == error
        never_comes(ims_device, Store.MSIX, 0)
        ims_device.control.release(Store.MSIX)
        ims_device.control.free(Store.MSIX)


@pytest.mark.kernel("debian-6.12")
@pytest.mark.machine("remapping-only")
def test_an_eventfd_that_is_gone_is_told_from_an_interrupt_that_the_guest_lost(
    ims_device: PluggedFunction,
) -> None:
    trap_path = trapped_by(ims_device, 8)
    ims_device.set_up(Store.MSIX, 2)
    deliver(ims_device, Store.MSIX, 0, 1)
    check_no_silent_failure(ims_device)
    trap_path.lose(Store.MSIX, 1)
    never_comes(ims_device, Store.MSIX, 1)
    with pytest.raises(CheckFailed, match="1 interrupts will never come"):
        check_no_silent_failure(ims_device)
    with pytest.raises(CheckFailed, match="will not be answered"):
        ims_device.model.raise_and_wait(Store.MSIX, 1, Deadline(5, "what cannot come"))
    deliver(ims_device, Store.MSIX, 0)


@pytest.mark.kernel("debian-6.12")
@pytest.mark.machine("remapping-only")
@pytest.mark.capability("D5")
def test_over_the_call_the_same_shortage_is_the_drivers_own_error(vm: Vm) -> None:
    host = Host(2, time.monotonic)
    with vm.granted_call(VirteFunction(host)), vm.ims_function() as device:
        device.set_up(Store.MSIX, 2)
        with pytest.raises(ControlError) as refused:
            device.control.alloc(Store.MSIX, 1, index=2)
        assert refused.value.errno == errno.ENOSPC
        deliver(device, Store.MSIX, 0, 1)
        check_no_silent_failure(device)
