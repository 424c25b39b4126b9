"""Row G2: the order in which the guest accesses its stores, which no delivery shows."""

from __future__ import annotations

import pytest

from harness.spec.interrupt import Store
from harness.testbed.plugged import PluggedFunction
from tests.guest.support import deliver

pytestmark = [
    pytest.mark.shared_vm("module"),
    pytest.mark.capability("G2"),
    pytest.mark.device(ims_mapped=False),
]

COUNT = 3


def live_in_order(function: PluggedFunction, store: Store) -> None:
    """Take some interrupts through all that changes or masks an entry, and look at each access.

    The first of them stays live throughout: what is done to the others may not disturb it.
    """
    guest = function.control
    with function.trapped() as traps:
        function.set_up(store, COUNT)
        deliver(function, store, *range(COUNT))
        for cpu in (1, 0):
            function.move(store, cpu, COUNT - 1)
            deliver(function, store, *range(COUNT))
        guest.mask(store, index=1)
        guest.unmask(store, index=1)
        deliver(function, store, 0, 1)
        guest.release(store, index=1)
        guest.request(store, index=1)
        deliver(function, store, *range(COUNT))
        guest.release(store, count=COUNT)
        guest.free(store, count=COUNT)
    assert traps.accesses(store)
    traps.check_order(store)


@pytest.mark.cpus(2)
@pytest.mark.parametrize("store", [Store.MSIX, Store.IMS], ids=lambda store: store.name)
def test_an_entry_is_changed_while_masked_and_a_mask_is_read_back(
    ims_device: PluggedFunction, store: Store
) -> None:
    live_in_order(ims_device, store)


@pytest.mark.capability("B5")
@pytest.mark.cpus(2)
@pytest.mark.machine("no-iommu")
def test_a_move_that_rewrites_the_entry_masks_it_meanwhile(ims_device: PluggedFunction) -> None:
    live_in_order(ims_device, Store.MSIX)
