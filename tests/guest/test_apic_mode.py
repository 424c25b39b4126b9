"""Row B7: xAPIC and x2APIC, which differ in how an IRTE names its destination."""

from __future__ import annotations

import pytest

from harness.remapping.unit import UnitState
from harness.spec.interrupt import Store
from harness.spec.vtd import RemappedEntry
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import deliver

pytestmark = [
    pytest.mark.capability("B7"),
    pytest.mark.machine("caching", "remapping-only", "caching-xapic", "remapping-only-xapic"),
]


def test_the_guest_goes_to_the_mode_that_the_machine_offers(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    unit = vm.observer.unit()
    assert unit is not None
    assert vm.spec.iommu is not None
    x2apic = vm.spec.iommu.x2apic
    assert bool(unit.extended_capability.extended_interrupt_mode) is x2apic
    assert unit.extended_mode is x2apic
    mode = "x2apic" if x2apic else "xapic"
    assert f"DMAR-IR: Enabled IRQ remapping in {mode} mode" in vm.kernel_log()


def test_each_cpu_is_reached_by_the_destination_in_the_irte(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    unit = vm.observer.unit()
    assert unit is not None
    for store in STORES:
        reach_each_cpu(ims_device, unit, store)
        # MSI and MSI-X are not on at once.
        ims_device.control.release(store, count=2)
        ims_device.control.free(store, count=2)
    ims_device.model.ledger.assert_quiet()


def reach_each_cpu(ims_device: PluggedFunction, unit: UnitState, store: Store) -> None:
    """Move an interrupt of a store from CPU to CPU: its IRTE has to name each."""
    ims_device.set_up(store, 2)
    destinations = set()
    for cpu in (0, 1):
        ims_device.move(store, cpu, index=1)
        entry = ims_device.irte(ims_device.message(store, 1))
        assert isinstance(entry, RemappedEntry)
        assert entry.reserved_bits(extended_mode=unit.extended_mode) == 0
        destination = entry.destination(extended_mode=unit.extended_mode)
        assert destination == ims_device.control.interrupt(store, 1).destination
        destinations.add(destination)
        deliver(ims_device, store, 1)
        assert ims_device.model.ledger.events()[-1].cpu == cpu
    assert len(destinations) == 2
    ims_device.check_audit()
