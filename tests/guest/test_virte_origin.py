"""Who sends an interrupt is held against the handle: by its requester id, or by who it is not."""

from __future__ import annotations

import dataclasses
import time

import pytest

from harness.devices.ledger import Event, Fate
from harness.guest.control import ControlError
from harness.host.deadline import Deadline, wait_until
from harness.hypervisor.host import Blocked
from harness.hypervisor.policy import Policy
from harness.spec.interrupt import Store
from harness.spec.pci import CapabilityId, Command, Header, RequesterId
from harness.spec.vtd import FaultReason
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.bare_devices import MSI, BareFunction, Edu, plugged_edu
from tests.guest.support import (
    Virte,
    blocked,
    deliver,
    fence,
    runs,
    sender_of,
    store_message,
)

pytestmark = pytest.mark.shared_vm("module")

ROUNDS = 10


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
@pytest.mark.machine("remapping-only")
@pytest.mark.parametrize("store", [Store.MSI, Store.MSIX], ids=lambda store: store.name)
def test_another_functions_pair_is_blocked_in_a_store_that_qemu_sends_from(
    vm: Vm, virte: Virte, store: Store
) -> None:
    faults = virte.model.partition.host.faults
    with vm.ims_function() as owner, vm.ims_function() as thief:
        owner.set_up(store, 1)
        (entry,) = virte.model.partition.entries()
        bare = BareFunction(vm, thief, store)
        bare.hold(owner.message(store, 0))

        def check_blocked(stolen: Event) -> None:
            wait_until(lambda: faults, Deadline(5, "the blocked message"))
            fault = faults.popleft()
            assert (fault.reason, fault.requester) == (Blocked.WRONG_SOURCE, thief.requester_id)
            thief.model.ledger.settle(stolen, Fate.BLOCKED, str(fault))

        for _ in range(ROUNDS):
            stolen = bare.fire()
            deliver(owner, store, 0)  # both are on their way at once
            check_blocked(stolen)
        # What fires behind a mask is sent when that is gone.
        bare.mask(1)
        stolen = bare.fire()
        deliver(owner, store, 0)
        bare.mask(0)
        check_blocked(stolen)
        assert (entry.delivered, entry.blocked) == (ROUNDS + 1, ROUNDS + 1)
        owner.model.ledger.assert_quiet()
        deliver(owner, store, 0)

        thief.bind()
        thief.set_up(store, 1)
        deliver(thief, store, 0)


@pytest.mark.capability("D8")
@pytest.mark.machine("remapping-only")
def test_a_functions_pair_is_blocked_in_a_device_that_qemu_emulates(vm: Vm, virte: Virte) -> None:
    host = virte.model.partition.host
    with vm.ims_function() as owner:
        owner.set_up(Store.MSIX, 1)
        with plugged_edu(vm) as edu:
            edu.hold_msi(owner.message(Store.MSIX, 0))
            for _ in range(ROUNDS):
                edu.fire()
                wait_until(lambda: host.faults, Deadline(5, "the blocked message"))
                assert host.faults.popleft().reason is Blocked.WRONG_SOURCE
                owner.model.ledger.assert_quiet()
                deliver(owner, Store.MSIX, 0)
        assert host.blocked == {Blocked.WRONG_SOURCE: ROUNDS}


@pytest.mark.capability("D8")
@pytest.mark.machine("remapping-only")
@pytest.mark.parametrize("store", [Store.MSI, Store.MSIX], ids=lambda store: store.name)
def test_what_a_function_fires_without_bus_mastering_lets_nothing_pass(
    vm: Vm, virte: Virte, store: Store
) -> None:
    host = virte.model.partition.host
    on, off = Command(memory_space=1, bus_master=1), Command(memory_space=1)
    with vm.ims_function() as owner, plugged_edu(vm) as edu:
        owner.set_up(store, 1)
        (entry,) = virte.model.partition.entries()
        edu.hold_msi(owner.message(store, 0))
        owner.write_config(Header.COMMAND, 2, off.value)
        owner.model.config.set(Header.COMMAND, 2, on.value)  # as if the model did not know yet
        dropped = fire_before(edu, owner, store)
        wait_until(lambda: entry.blocked or entry.delivered, Deadline(15, "the message of edu"))
        assert (entry.delivered, entry.blocked) == (0, 1)
        assert host.faults.popleft().reason is Blocked.WRONG_SOURCE
        owner.model.ledger.settle(dropped, Fate.DROPPED, "by QEMU")

        owner.write_config(Header.COMMAND, 2, on.value)
        deliver(owner, store, 0)


@pytest.mark.capability("D8")
@pytest.mark.machine("remapping-only")
def test_what_qemu_holds_back_of_msi_lets_nothing_pass_and_comes_in_the_end(
    vm: Vm, virte: Virte
) -> None:
    host = virte.model.partition.host
    with vm.ims_function() as owner, plugged_edu(vm) as edu:
        owner.set_up(Store.MSI, 1)
        (entry,) = virte.model.partition.entries()
        edu.hold_msi(owner.message(Store.MSI, 0))
        offset, size = MSI["mask"]
        mask = owner.model.config.capabilities[CapabilityId.MSI].offset + offset
        owner.write_config(mask, size, 1)
        owner.model.config.set(mask, size, 0)  # as if the model did not know yet
        held = fire_before(edu, owner, Store.MSI)
        wait_until(lambda: entry.blocked or entry.delivered, Deadline(15, "the message of edu"))
        assert (entry.delivered, entry.blocked) == (0, 1)
        assert host.faults.popleft().reason is Blocked.WRONG_SOURCE

        owner.write_config(mask, size, 0)
        owner.model.ledger.wait_answered(held, Deadline(5, "what QEMU held back"))
        deliver(owner, Store.MSI, 0)


def fire_before(edu: Edu, plugged: PluggedFunction, store: Store) -> Event:
    """Have a function fire, and then a device whose messages nothing announces."""
    edu.fire_late()
    time.sleep(0.3)  # for the guest to be quiet: whatever it writes would end the matter
    return plugged.model.raise_interrupt(store, 0)


@pytest.mark.capability("D8")
@pytest.mark.machine("caching")
@pytest.mark.parametrize("store", [Store.MSI, Store.MSIX], ids=lambda store: store.name)
def test_where_the_guest_translates_dma_another_functions_pair_is_blocked_on_its_way(
    vm: Vm, virte: Virte, store: Store
) -> None:
    with vm.ims_function() as owner, vm.ims_function() as thief:
        owner.set_up(store, 1)
        bare = BareFunction(vm, thief, store)
        bare.hold(owner.message(store, 0))
        stolen = bare.fire()
        late = Deadline(5, "the fault of the thief's DMA")
        fault = vm.expect_fault(FaultReason.NO_WRITE_PERMISSION, None, late)
        assert sender_of(fault) == thief.requester_id
        thief.model.ledger.settle(stolen, Fate.BLOCKED, "by the guest's unit")
        assert virte.model.partition.host.blocked.total() == 0
        owner.model.ledger.assert_quiet()
        deliver(owner, store, 0)


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
