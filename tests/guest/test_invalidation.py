"""Row G1: every change of a present IRTE, and every free, is followed by its invalidation."""

from __future__ import annotations

import pytest

from harness.errors import CheckFailed
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store
from harness.spec.msi import RemappableMessage
from harness.spec.vtd import RemappedEntry
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import damaged_unseen, deliver, invalidate, left_stale

pytestmark = [pytest.mark.shared_vm("module"), pytest.mark.capability("G1")]


@pytest.mark.cpus(2)
@pytest.mark.parametrize("store", STORES, ids=lambda store: store.name)
def test_no_operation_leaves_a_changed_irte_in_the_units_cache(
    vm: Vm, ims_device: PluggedFunction, store: Store
) -> None:
    guest, observer = ims_device.control, vm.observer
    guest.alloc(store, 4)
    observer.check_invalidations()
    guest.request(store, count=4)
    observer.check_invalidations()
    changes = 0
    for cpu in (0, 1, 0):
        before = ims_device.irtes()
        ims_device.move(store, cpu, index=2)
        changes += ims_device.irtes() != before
        observer.check_invalidations()
        deliver(ims_device, store, 2)
    assert changes >= 2
    guest.release(store, count=4)
    observer.check_invalidations()
    guest.free(store, count=4)
    observer.check_invalidations()
    ims_device.unbind()
    assert not ims_device.irtes()
    observer.check_invalidations()


def irte_index(plugged: PluggedFunction, index: int) -> int:
    """Return the index of the IRTE of an IMS interrupt."""
    request = plugged.message(Store.IMS, index).decode()
    assert isinstance(request, RemappableMessage)
    return request.index


@pytest.mark.parametrize(
    ("fields", "change"),
    [({"vector": 0x77}, "changed"), ({"present": 0}, "freed")],
    ids=["changed", "freed"],
)
def test_an_irte_that_nobody_invalidated_is_named_as_it_was_and_is(
    vm: Vm, ims_device: PluggedFunction, fields: dict[str, int], change: str
) -> None:
    ims_device.set_up(Store.IMS, 4)
    vm.observer.check_invalidations()
    number = irte_index(ims_device, 2)
    cached = ims_device.table().read_entry(number)
    with damaged_unseen(vm, ims_device, 2, **fields):
        with pytest.raises(CheckFailed) as caught:
            vm.observer.check_invalidations()
        current = ims_device.table().read_entry(number)
    assert caught.value.evidence == (
        f"IRTE {number} was {change} and nobody invalidated it: it was {cached}, it is {current}"
    )
    vm.observer.check_invalidations()


def test_what_a_later_operation_hides_is_told_all_the_same(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    ims_device.set_up(Store.IMS, 4)
    vm.observer.check_invalidations()
    with damaged_unseen(vm, ims_device, 2, vector=0x77):
        ims_device.control.mask(Store.IMS, 3)
    ims_device.control.release(Store.IMS, count=4)
    ims_device.control.free(Store.IMS, count=4)
    with pytest.raises(CheckFailed, match="1 remapping entries might still be used as they were"):
        vm.observer.check_invalidations()
    vm.observer.check_invalidations()


@pytest.mark.cpus(2)
@pytest.mark.machine("caching", "caching-xapic")
def test_a_message_goes_where_the_cached_irte_leads(vm: Vm, ims_device: PluggedFunction) -> None:
    ims_device.set_up(Store.IMS, 2)
    for cpu in (1, 0):
        ims_device.move(Store.IMS, cpu, index=1)
        deliver(ims_device, Store.IMS, 1)
        # QEMU itself would find no entry, or deliver a vector that is nobody's.
        for wrong in ({"present": 0}, {"vector": 0xEE}, {"source_id": 0x1234}):
            with damaged_unseen(vm, ims_device, 1, **wrong):
                left_stale(vm)
                answered = Deadline(5, "an interrupt by an IRTE of which the unit knows")
                event = ims_device.model.raise_and_wait(Store.IMS, 1, answered)
            assert event.cpu == cpu
    ims_device.model.ledger.assert_quiet()


def test_an_irte_that_is_repaired_and_not_invalidated_still_blocks(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    ims_device.set_up(Store.IMS, 4)
    with damaged_unseen(vm, ims_device, 2, source_id=0x1234):
        invalidate(vm)
        ims_device.model.raise_interrupt(Store.IMS, 2)
    left_stale(vm)
    event = ims_device.model.raise_interrupt(Store.IMS, 2)
    deliver(ims_device, Store.IMS, 1)
    assert "0x26" in event.reason
    entry = ims_device.irte(ims_device.message(Store.IMS, 2))
    assert isinstance(entry, RemappedEntry)
    assert entry.source_id == ims_device.requester_id
    invalidate(vm)
    deliver(ims_device, Store.IMS, 2)
