"""Row B8: IRTEs, the guest's interrupts and the stores agree, or the difference has a name."""

from __future__ import annotations

import pytest

from harness.devices.ledger import Fate
from harness.remapping.audit import Kind
from harness.spec.interrupt import Store
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import damaged, deliver, fence

pytestmark = [pytest.mark.shared_vm("module"), pytest.mark.capability("B8")]


@pytest.mark.cpus(2)
def test_the_three_views_agree_at_every_step_of_a_life(ims_device: PluggedFunction) -> None:
    guest = ims_device.control
    for store in STORES:
        guest.alloc(store, 4)
        ims_device.check_audit()
        guest.request(store, count=4)
        ims_device.check_audit()
        guest.mask(store, count=2)
        ims_device.check_audit()
        guest.unmask(store, count=2)
        guest.move(store, cpu=1, count=4)
        ims_device.check_audit()
        guest.release(store, count=4)
        ims_device.check_audit()
        guest.free(store, count=4)
        ims_device.check_audit()


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"vector": 0x77}, Kind.WRONG_VECTOR),
        ({"source_id": 0x1234}, Kind.WRONG_SOURCE_ID),
        ({"source_validation": 0}, Kind.WRONG_SOURCE_VALIDATION),
        ({"present": 0}, Kind.MISSING_ENTRY),
    ],
    ids=lambda value: value.name if isinstance(value, Kind) else "",
)
def test_a_damaged_irte_is_named(
    vm: Vm, ims_device: PluggedFunction, fields: dict[str, int], kind: Kind
) -> None:
    ims_device.set_up(Store.IMS, 4)
    with damaged(vm, ims_device, 2, **fields):
        assert kind in {finding.kind for finding in ims_device.audit()}
    ims_device.check_audit()


def test_a_message_from_the_wrong_source_is_blocked_and_the_others_arrive(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    ims_device.set_up(Store.IMS, 4)
    with damaged(vm, ims_device, 2, source_id=0x1234):
        event = ims_device.model.raise_interrupt(Store.IMS, 2)
        fence(ims_device, Store.IMS, 1)
        assert event.fate is Fate.BLOCKED
        assert "0x26" in event.reason
        assert not event.answered
    deliver(ims_device, Store.IMS, 2)


def test_a_store_that_names_a_foreign_irte_is_named(ims_device: PluggedFunction) -> None:
    ims_device.set_up(Store.IMS, 2)
    first, second = (ims_device.message(Store.IMS, index) for index in (0, 1))
    ims_device.model.region_write(4, 16, first.address.to_bytes(8, "little"))
    assert {finding.kind for finding in ims_device.audit()} >= {
        Kind.FOREIGN_ENTRY,
        Kind.MESSAGE_DIFFERS,
    }
    ims_device.model.region_write(4, 16, second.address.to_bytes(8, "little"))
    ims_device.check_audit()
