"""Who sends an interrupt is held against the handle: the requester id, where the way tells it."""

from __future__ import annotations

import dataclasses

import pytest

from harness.devices.ledger import Fate
from harness.guest.control import ControlError
from harness.hypervisor.host import Blocked
from harness.hypervisor.policy import Policy
from harness.spec.interrupt import Store
from harness.spec.pci import RequesterId
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import Virte, blocked, deliver, fence, runs, store_message

pytestmark = pytest.mark.shared_vm("module")


@pytest.mark.capability("D8")
def test_another_functions_pair_is_blocked_and_its_sender_logged(vm: Vm, virte: Virte) -> None:
    with vm.ims_function() as owner, vm.ims_function() as thief:
        owner.set_up(Store.IMS, 1)
        thief.set_up(Store.IMS, 3)
        store_message(thief, 2, owner.message(Store.IMS, 0))
        event = thief.model.raise_interrupt(Store.IMS, 2)
        fence(thief, Store.IMS, 1)
        assert event.fate is Fate.BLOCKED
        (fault,) = virte.model.partition.host.faults
        assert fault.reason is Blocked.WRONG_SOURCE
        assert fault.requester is not None
        assert RequesterId(fault.requester) == thief.requester_id
        owner.model.ledger.assert_quiet()
        deliver(owner, Store.IMS, 0)


@pytest.mark.capability("D8")
def test_a_function_that_is_not_the_guests_gets_no_handle(
    vm: Vm, virte: Virte, policy: Policy
) -> None:
    with vm.ims_function() as own, vm.ims_function() as foreign:
        virte.model.partition.policy.owns = lambda segment, requester: (
            requester != foreign.requester_id
        )
        own.set_up(Store.IMS, 1)
        with pytest.raises(ControlError, match="not permitted"):
            foreign.set_up(Store.MSIX, 1)
        deliver(own, Store.IMS, 0)
        holders = {entry.source.origin.requester for entry in virte.model.partition.entries()}
        assert holders == {own.requester_id}


@pytest.mark.capability("D8", "D9")
def test_a_message_with_a_pasid_is_blocked_by_a_handle_without_one(
    virte: Virte, device: PluggedFunction
) -> None:
    device.set_up(Store.IMS, 2)
    pair = device.message(Store.IMS, 0)
    ran = runs(device, Store.IMS, 0)
    for pasid in (0, 7, 0xFFFFF):
        store_message(device, 0, dataclasses.replace(pair, pasid=pasid))
        blocked(device, 0)
        fault = virte.model.partition.host.faults[-1]
        assert (fault.reason, fault.pasid) == (Blocked.WRONG_PASID, pasid)
        assert fault.requester == device.requester_id
    assert runs(device, Store.IMS, 0) == ran
    store_message(device, 0, pair)
    deliver(device, Store.IMS, 0)
