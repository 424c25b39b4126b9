"""Rows A4 and A6: the IMS array, alone and beside MSI-X."""

from __future__ import annotations

import pytest

from harness.devices.ims_function.address_map import Area
from harness.devices.ledger import Fate
from harness.host.deadline import Deadline
from harness.spec.ims_function import CompletionStatus
from harness.spec.interrupt import Store
from harness.spec.msi import RemappableMessage
from harness.testbed.plugged import PluggedFunction
from tests.guest.support import deliver, fence, runs

pytestmark = pytest.mark.shared_vm("module")

CHUNK = 256
"""Interrupts that are requested at a time: two CPUs have about 400 vectors between them."""


@pytest.mark.cpus(2)  # one has some 200 vectors
@pytest.mark.capability("A4")
@pytest.mark.device(ims_mapped=True)
def test_2048_entries_beside_nine_vectors_are_allocated_and_all_deliver(
    ims_device: PluggedFunction,
) -> None:
    guest, model = ims_device.control, ims_device.model
    ims_device.set_up(Store.MSIX, 9)
    guest.alloc(Store.IMS, 2048, facts=False)

    for start in range(0, 2048, CHUNK):
        guest.request(Store.IMS, start, CHUNK)
        # One after the other: two that are out together may be answered for each other.
        deliver(ims_device, Store.IMS, *range(start, start + CHUNK))
        messages = {
            entry.index: (entry.address, entry.data)
            for entry in ims_device.stores()
            if entry.store is Store.IMS and entry.address
        }
        assert len(set(messages.values())) == CHUNK
        if start == 0:
            ims_device.check_audit()
        guest.release(Store.IMS, start, CHUNK)
    deliver(ims_device, Store.MSIX, *range(9))
    assert model.ledger.counts()["answered"] == 2048 + 9
    model.ledger.assert_quiet()


@pytest.mark.capability("A4")
@pytest.mark.parametrize(
    "mapped",
    [
        pytest.param(False, marks=pytest.mark.device(ims_mapped=False), id="trapped"),
        pytest.param(True, marks=pytest.mark.device(ims_mapped=True), id="mapped"),
    ],
)
def test_a_masked_entry_is_held_and_delivered_once_on_unmask(
    ims_device: PluggedFunction, mapped: bool
) -> None:
    guest, model = ims_device.control, ims_device.model
    ims_device.set_up(Store.IMS, 4)
    guest.mask(Store.IMS, 2)
    held = model.raise_interrupt(Store.IMS, 2)
    again = model.raise_interrupt(Store.IMS, 2)
    fence(ims_device, Store.IMS, 1)
    assert (held.fate, again.fate) == (Fate.PENDING, Fate.MERGED)
    assert runs(ims_device, Store.IMS, 2) == 0

    guest.unmask(Store.IMS, 2)
    model.ledger.wait_answered(held, Deadline(5, "the entry that was held"))
    fence(ims_device, Store.IMS, 1)
    assert runs(ims_device, Store.IMS, 2) == 1
    model.ledger.assert_quiet()
    traps = model.accesses.counts_since()[Area.IMS].total
    assert (traps == 0) is mapped


@pytest.mark.capability("A4")
@pytest.mark.leaves("events")  # the one that waits behind the mask
def test_a_freed_entry_holds_the_null_message_and_interrupts_nobody(
    ims_device: PluggedFunction,
) -> None:
    guest, model = ims_device.control, ims_device.model
    ims_device.set_up(Store.IMS, 2)
    deliver(ims_device, Store.IMS, 1)
    guest.release(Store.IMS, 1)
    guest.free(Store.IMS, 1)
    entry = next(item for item in model.stores() if (item.store, item.index) == (Store.IMS, 1))
    assert (entry.address, entry.data, entry.masked) == (0, 0, True)
    event = model.raise_interrupt(Store.IMS, 1)
    fence(ims_device, Store.IMS, 0)
    assert event.fate is Fate.PENDING
    assert not event.answered
    assert not model.ledger.findings()


@pytest.mark.capability("A4", "A6")
def test_a_work_descriptor_raises_the_interrupt_it_names(ims_device: PluggedFunction) -> None:
    guest, model = ims_device.control, ims_device.model
    ims_device.set_up(Store.MSIX, 2)
    ims_device.set_up(Store.IMS, 8)
    for store, index in [(Store.IMS, 7), (Store.MSIX, 1), (Store.IMS, 0)]:
        before = runs(ims_device, store, index)
        completion = guest.fire(store, index)
        assert completion.status == CompletionStatus.SUCCESS
        (event,) = [e for e in model.ledger.events() if e.sequence == completion.sequence]
        assert (event.store, event.index) == (store, index)
        model.ledger.wait_answered(event, Deadline(5, "the interrupt of a descriptor"))
        assert runs(ims_device, store, index) == before + 1
        assert guest.interrupt(store, index).last_sequence == completion.sequence
    assert guest.fire(Store.IMS, 5000).status == CompletionStatus.BAD_HANDLE
    model.ledger.assert_quiet()


@pytest.mark.cpus(2)
@pytest.mark.capability("A6")
@pytest.mark.device(ims_mapped=True)
@pytest.mark.parametrize(
    ("loaded", "busy"),
    [(Store.IMS, Store.MSIX), (Store.MSIX, Store.IMS)],
    ids=["IMS-under-load", "MSIX-under-load"],
)
def test_a_store_is_moved_masked_and_torn_down_while_the_other_is_under_load(
    ims_device: PluggedFunction, loaded: Store, busy: Store
) -> None:
    ims_device.set_up(loaded, 8)
    load = ims_device.model.burst(loaded, range(8), 1200)
    rounds = 0
    while not load.over or rounds < 2:
        work_through(ims_device, busy, cpu=rounds % 2)
        rounds += 1
    load.wait(Deadline(60, f"the interrupts of {loaded.name}"))
    assert sum(sum(item.counts) for item in ims_device.control.interrupts(loaded)) == 1200
    assert len(ims_device.irtes()) == 8
    ims_device.check_audit()
    ims_device.model.ledger.assert_quiet()


def work_through(ims_device: PluggedFunction, store: Store, cpu: int) -> None:
    """Set four interrupts of a store up, move and mask one, and tear all of them down."""
    guest, model = ims_device.control, ims_device.model
    ims_device.set_up(store, 4)
    ims_device.move(store, cpu, index=2)
    assert model.raise_and_wait(store, 2, Deadline(10, "an interrupt that was moved")).cpu == cpu
    guest.mask(store, 2)
    held = model.raise_interrupt(store, 2)
    fence(ims_device, store, 1)
    assert not held.answered
    guest.unmask(store, 2)
    model.ledger.wait_answered(held, Deadline(10, "an interrupt that was held"))
    guest.release(store, count=4)
    guest.free(store, count=4)


@pytest.mark.capability("A6")
def test_msix_and_ims_have_irtes_of_their_own(ims_device: PluggedFunction) -> None:
    ims_device.set_up(Store.MSIX, 4)
    ims_device.set_up(Store.IMS, 4)
    requests = [
        ims_device.message(store, index).decode()
        for store in (Store.MSIX, Store.IMS)
        for index in range(4)
    ]
    indices = {item.index for item in requests if isinstance(item, RemappableMessage)}
    assert len(indices) == 8
    assert indices == set(ims_device.irtes())
