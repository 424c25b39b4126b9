"""Row B2: an allocation takes an IRTE with the right source id, or the driver gets the error."""

from __future__ import annotations

import errno

import pytest

from harness.guest.control import ControlError
from harness.spec.interrupt import Store
from harness.spec.vtd import RemappedEntry, SourceValidation
from harness.testbed.plugged import STORES, PluggedFunction
from tests.guest.support import deliver

pytestmark = [pytest.mark.shared_vm("module"), pytest.mark.capability("B2")]

NONE_LEFT = (errno.ENOMEM, errno.ENOSPC)
"""intel_irq_remapping_alloc() gives ENOMEM, and the PCI core makes ENOSPC of it for MSI-X."""


@pytest.mark.parametrize("store", STORES, ids=lambda store: store.name)
def test_each_irte_verifies_the_source_id_of_the_function(
    ims_device: PluggedFunction, store: Store
) -> None:
    before = ims_device.table().present_entries()
    ims_device.set_up(store, 4)
    new = {
        index: entry
        for index, entry in ims_device.table().present_entries().items()
        if index not in before
    }
    assert len(new) == 4
    for entry in new.values():
        assert isinstance(entry, RemappedEntry)
        assert entry.source_id == ims_device.requester_id
        assert entry.source_validation == SourceValidation.SOURCE_ID
        assert entry.source_qualifier == 0


@pytest.mark.timeout(280)
def test_when_no_irte_is_left_every_driver_gets_the_error_and_recovers(
    ims_device: PluggedFunction,
) -> None:
    guest = ims_device.control
    guest.alloc(Store.IMS, 3)
    held = guest.hold()
    assert held.refusal in NONE_LEFT
    # Whatever the machine uses itself is a handful.
    entries = ims_device.table().entries
    assert entries - 200 < held.total < entries
    for store in STORES:
        refuse(ims_device, store, 1, index=3 if store is Store.IMS else 0)

    # Three are left. What a larger allocation takes of them before it fails, it gives back.
    guest.free(Store.IMS, count=3)
    for store in STORES:
        refuse(ims_device, store, 4)
    for store, granted in ((Store.MSI, 1), (Store.MSIX, 3)):
        assert guest.alloc(store, 4, least=1).done == granted
        guest.free(store, count=granted)
    guest.alloc(Store.IMS, 3)
    refuse(ims_device, Store.IMS, 1, index=3)
    guest.free(Store.IMS, count=3)
    assert guest.drop().total == 0

    ims_device.set_up(Store.IMS, 4)
    ims_device.set_up(Store.MSI, 32)
    deliver(ims_device, Store.IMS, 0, 1, 2, 3)
    deliver(ims_device, Store.MSI, 0, 31)
    ims_device.check_audit()


def refuse(ims_device: PluggedFunction, store: Store, count: int, *, index: int = 0) -> None:
    """Check that an allocation fails for want of IRTEs, and takes none."""
    before = len(ims_device.table().present_entries())
    with pytest.raises(ControlError) as refused:
        ims_device.control.alloc(store, count, index=index)
    assert refused.value.errno in NONE_LEFT
    assert not refused.value.done
    assert len(ims_device.table().present_entries()) == before


def test_entries_are_taken_without_gaps_in_the_owners_view(ims_device: PluggedFunction) -> None:
    guest = ims_device.control
    guest.alloc(Store.IMS, 2, index=100)
    guest.alloc(Store.IMS, 1, index=None)
    assert [item.index for item in guest.interrupts(Store.IMS)] == [0, 100, 101]
    with pytest.raises(ControlError) as refused:
        guest.alloc(Store.IMS, 1, index=100)
    assert refused.value.errno in (errno.EEXIST, errno.EBUSY)
    with pytest.raises(ControlError) as refused:
        guest.alloc(Store.IMS, 1, index=2048)
    assert refused.value.errno in (errno.ENOSPC, errno.EINVAL)
