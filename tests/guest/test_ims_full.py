"""Row A4: every entry of the IMS array live at once, beside nine MSI-X vectors."""

from __future__ import annotations

import pytest

from harness.devices.ims_function.address_map import Area
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import deliver

ENTRIES = 2048
VECTORS = 9


@pytest.mark.capability("A4")
@pytest.mark.timeout(280)
@pytest.mark.kernel("debian-6.12")
@pytest.mark.machine("many-cpus")
@pytest.mark.parametrize(
    "mapped",
    [
        pytest.param(False, marks=pytest.mark.device(ims_mapped=False), id="trapped"),
        pytest.param(True, marks=pytest.mark.device(ims_mapped=True), id="mapped"),
    ],
)
def test_2048_entries_are_live_beside_nine_vectors_and_each_is_raised_and_moved(
    vm: Vm, ims_device: PluggedFunction, mapped: bool
) -> None:
    guest, model = ims_device.control, ims_device.model
    ims_device.set_up(Store.MSIX, VECTORS)
    guest.alloc(Store.IMS, ENTRIES, facts=False)
    guest.request(Store.IMS, count=ENTRIES)
    counts = {Store.MSIX: VECTORS, Store.IMS: ENTRIES}
    assert len(ims_device.irtes()) == sum(counts.values())
    ims_device.check_audit()
    stored = [ims_device.message(Store.IMS, index) for index in (0, ENTRIES - 1)]

    for store, count in counts.items():
        deliver(ims_device, store, *range(count))
    mark = model.accesses.mark()
    for store in counts:
        for before in guest.interrupts(store):
            cpu = (before.cpu + 1) % vm.spec.cpus
            guest.move(store, cpu, before.index)
            event = model.raise_and_wait(store, before.index, Deadline(10, "the moved interrupt"))
            assert event.cpu == cpu
    assert model.accesses.counts_since(mark)[Area.IMS].total == 0

    assert [ims_device.message(Store.IMS, index) for index in (0, ENTRIES - 1)] == stored
    for store, count in counts.items():
        assert [sum(item.counts) for item in guest.interrupts(store)] == [2] * count
    ims_device.check_audit()
    model.ledger.assert_quiet()
    assert (model.accesses.counts_since()[Area.IMS].total == 0) is mapped
