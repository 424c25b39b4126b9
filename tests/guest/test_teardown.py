"""Row B6: teardown leaves nothing."""

from __future__ import annotations

import pytest

from harness.spec.interrupt import Store
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import deliver

pytestmark = pytest.mark.capability("B6")


def entries_of_four(plugged: PluggedFunction, store: Store) -> set[int]:
    """Return the IRTEs that four interrupts are given: the first that are free. They deliver."""
    plugged.set_up(store, 4)
    found = set(plugged.irtes())
    deliver(plugged, store, 0, 1, 2, 3)
    plugged.check_audit()
    plugged.control.release(store, count=4)
    plugged.control.free(store, count=4)
    return found


@pytest.mark.timeout(280)
@pytest.mark.machine("caching")
@pytest.mark.parametrize(
    ("store", "rounds"),
    [(Store.IMS, 2000), (Store.MSIX, 1000), (Store.MSI, 1000)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_thousands_of_cycles_leave_no_irte_and_no_interrupt_number(
    ims_device: PluggedFunction, store: Store, rounds: int
) -> None:
    guest = ims_device.control
    first = entries_of_four(ims_device, store)
    guest.cycle(store, 2, count=2)
    entries = set(ims_device.table().present_entries())
    numbers = [interrupt.virq for interrupt in guest.guest.irqs()]
    assert guest.cycle(store, rounds, count=2) == rounds
    assert set(ims_device.table().present_entries()) == entries
    assert [interrupt.virq for interrupt in guest.guest.irqs()] == numbers
    # An entry that is taken and not present shows in which ones are handed out next.
    assert entries_of_four(ims_device, store) == first


def test_unbinding_the_driver_frees_everything_that_is_still_in_use(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    ims_device.set_up(Store.MSIX, 4)
    ims_device.set_up(Store.IMS, 64)
    deliver(ims_device, Store.IMS, 0, 63)
    assert len(ims_device.irtes()) == 68
    ims_device.unbind()

    assert ims_device.irtes() == {}
    entries = ims_device.model.stores()
    ims = [entry for entry in entries if entry.store is Store.IMS]
    assert [entry for entry in ims if not entry.masked or entry.address or entry.data] == []
    msix = [entry for entry in entries if entry.store is Store.MSIX]
    assert [entry for entry in msix if entry.enabled] == []
    ims_device.bind()
    ims_device.set_up(Store.IMS, 1)
    deliver(ims_device, Store.IMS, 0)


@pytest.mark.kernel("debian-6.12")
@pytest.mark.machine("caching")
def test_a_test_may_leave_the_driver_unbound(ims_device: PluggedFunction) -> None:
    ims_device.unbind()
