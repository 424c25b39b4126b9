"""Who sends an interrupt is held against the handle: the requester id, where the way tells it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from harness.devices.ledger import Fate
from harness.devices.virte_function.function import VirteFunction
from harness.guest.control import ControlError
from harness.host.deadline import Deadline, wait_until
from harness.hypervisor.host import Blocked, Host
from harness.spec.interrupt import Store
from harness.spec.pci import RequesterId
from harness.testbed.vm import Vm
from tests.guest.support import deliver, fence, store_message

pytestmark = [
    pytest.mark.shared_vm("module"),
    pytest.mark.kernel("debian-6.12"),
    pytest.mark.machine("remapping-only"),
]


@pytest.fixture
def door(vm: Vm) -> Iterator[VirteFunction]:
    """The function of the call, with a guest that has negotiated."""
    door = VirteFunction(Host(64, time.monotonic))
    with vm.plugged(door) as served:
        wait_until(lambda: door.partition.negotiated, Deadline(20, "the guest's negotiation"))
        yield door
        vm.ssh.run(f"echo {served.slot} > /sys/bus/pci/drivers/virte/unbind")


@pytest.mark.capability("D8")
def test_another_functions_pair_is_blocked_and_its_sender_logged(
    vm: Vm, door: VirteFunction
) -> None:
    with vm.ims_function() as owner, vm.ims_function() as thief:
        owner.set_up(Store.IMS, 1)
        thief.set_up(Store.IMS, 3)
        store_message(thief, 2, owner.message(Store.IMS, 0))
        event = thief.model.raise_interrupt(Store.IMS, 2)
        fence(thief, Store.IMS, 1)
        assert event.fate is Fate.BLOCKED
        (fault,) = door.partition.host.faults
        assert fault.reason is Blocked.WRONG_SOURCE
        assert fault.requester is not None
        assert RequesterId(fault.requester) == thief.requester_id
        owner.model.ledger.assert_quiet()
        deliver(owner, Store.IMS, 0)


@pytest.mark.capability("D8")
def test_a_function_that_is_not_the_guests_gets_no_handle(vm: Vm, door: VirteFunction) -> None:
    with vm.ims_function() as own, vm.ims_function() as foreign:
        door.partition.policy.owns = lambda segment, requester: requester != foreign.requester_id
        own.set_up(Store.IMS, 1)
        with pytest.raises(ControlError, match="not permitted"):
            foreign.set_up(Store.MSIX, 1)
        deliver(own, Store.IMS, 0)
        holders = {entry.source.origin.requester for entry in door.partition.entries()}
        assert holders == {own.requester_id}
