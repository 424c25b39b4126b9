"""Row B5: what a guest without interrupt remapping may do, and what it may not."""

from __future__ import annotations

import errno

import pytest

from harness.guest.control import ControlError
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store
from harness.spec.msi import CompatibilityMessage
from harness.testbed.plugged import PluggedFunction
from tests.guest.support import deliver

pytestmark = [pytest.mark.capability("B5"), pytest.mark.machine("no-iommu")]


def refusal(ims_device: PluggedFunction, store: Store, count: int) -> int:
    """Return the errno with which the guest refuses an allocation."""
    with pytest.raises(ControlError) as refused:
        ims_device.control.alloc(store, count)
    return refused.value.errno


def test_ims_and_more_than_one_message_of_msi_are_refused(ims_device: PluggedFunction) -> None:
    guest = ims_device.control
    assert not guest.facts().remapping
    assert refusal(ims_device, Store.IMS, 1) == errno.EOPNOTSUPP
    assert refusal(ims_device, Store.MSI, 2) == errno.ENOSPC
    assert guest.alloc(Store.MSI, 4, least=1).done == 1
    guest.request(Store.MSI)
    deliver(ims_device, Store.MSI, 0)


@pytest.mark.cpus(2)
@pytest.mark.leaves("events")
@pytest.mark.parametrize("store", [Store.MSI, Store.MSIX], ids=lambda store: store.name)
def test_a_move_rewrites_the_message_and_the_next_interrupt_lands_on_the_new_cpu(
    ims_device: PluggedFunction, store: Store
) -> None:
    ims_device.set_up(store, 1)
    ims_device.move(store, 0)  # wherever the kernel had put it
    for cpu in (1, 0, 1):
        before = ims_device.message(store, 0)
        ims_device.move(store, cpu)
        moved = ims_device.message(store, 0)
        assert moved != before
        named, live = moved.decode(), ims_device.control.interrupt(store)
        assert isinstance(named, CompatibilityMessage)
        assert (named.destination, named.vector) == (live.destination, live.vector)
        event = ims_device.model.raise_and_wait(store, 0, Deadline(5, "an interrupt after a move"))
        assert event.cpu == cpu
    # Where 6.1 moves an MSI-X vector from its handler, the handler runs once more on the new CPU,
    # for nothing: msi_set_affinity() has it taken again when in doubt (arch/x86/kernel/apic/msi.c).
    assert not ims_device.model.ledger.unanswered
    for finding in ims_device.model.ledger.findings():
        assert "with nothing outstanding" in str(finding)
