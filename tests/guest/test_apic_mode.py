"""Row B7: xAPIC and x2APIC, which differ in how an IRTE names its destination."""

from __future__ import annotations

import pytest

from harness.remapping.live_entries import Apic
from harness.remapping.unit import UnitState
from harness.spec.interrupt import Store
from harness.spec.vtd import RemappedEntry
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import deliver

pytestmark = pytest.mark.capability("B7")
every_mode = pytest.mark.machine(
    "caching", "remapping-only", "caching-xapic", "remapping-only-xapic"
)


@every_mode
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


@pytest.mark.cpus(2)
@every_mode
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
    for cpu in range(ims_device.machine.spec.cpus):
        ims_device.move(store, cpu, index=1)
        entry = ims_device.irte(ims_device.message(store, 1))
        assert isinstance(entry, RemappedEntry)
        assert entry.reserved_bits(extended_mode=unit.extended_mode) == 0
        destination = entry.destination(extended_mode=unit.extended_mode)
        assert destination == ims_device.control.interrupt(store, 1).destination
        destinations.add(destination)
        deliver(ims_device, store, 1)
        assert ims_device.model.ledger.events()[-1].cpu == cpu
    assert len(destinations) == ims_device.machine.spec.cpus
    ims_device.check_audit()


@pytest.mark.machine("large-apic-ids", "large-apic-ids-physical")
def test_a_cpu_is_reached_whatever_its_apic_id(vm: Vm, ims_device: PluggedFunction) -> None:
    """In a second cluster, and beyond the 8 bits that a compatibility-format message has."""
    cpus = vm.control.cpus().cpus
    assert tuple(cpu.apic_id for cpu in cpus) == vm.spec.apic_ids
    assert vm.spec.apic_ids[-1] > 255
    unit = ims_device.unit()
    assert unit.extended_mode
    for store in STORES:
        ims_device.set_up(store, 2)
        for cpu in cpus:
            ims_device.move(store, cpu.cpu, index=1)
            entry = ims_device.irte(ims_device.message(store, 1))
            assert isinstance(entry, RemappedEntry)
            logical = "x2apic_phys" not in vm.spec.kernel_arguments
            assert bool(entry.destination_mode) is logical
            named = Apic.x2apic(cpu.cpu, cpu.apic_id)
            assert entry.destination_id == (named.logical_id if logical else named.apic_id)
            deliver(ims_device, store, 1)
            assert ims_device.model.ledger.events()[-1].cpu == cpu.cpu
        ims_device.check_audit()
        ims_device.check_rules()
        ims_device.control.release(store, count=2)
        ims_device.control.free(store, count=2)
    ims_device.model.ledger.assert_quiet()
