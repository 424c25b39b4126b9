"""Row B1: the IRQ-domain hierarchy that the kernel built, held against QEMU's view."""

from __future__ import annotations

import pytest

from harness.guest.facts import MachineInterrupt
from harness.remapping.linux import entry_index
from harness.spec.interrupt import Store
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.views import remapping_level
from harness.testbed.vm import Vm

pytestmark = [pytest.mark.shared_vm("module"), pytest.mark.capability("B1")]


def of_store(plugged: PluggedFunction, store: Store) -> list[MachineInterrupt]:
    virqs = {interrupt.virq for interrupt in plugged.control.interrupts(store)}
    return [interrupt for interrupt in plugged.control.guest.irqs() if interrupt.virq in virqs]


@pytest.mark.parametrize("store", STORES, ids=lambda store: store.name)
def test_a_message_store_stands_on_remapping_and_remapping_on_the_vector_domain(
    ims_device: PluggedFunction, store: Store
) -> None:
    ims_device.set_up(store, 4)
    found = of_store(ims_device, store)
    assert len(found) == 4
    for interrupt in found:
        below = [level.chip for level in interrupt.levels[1:]]
        assert below == ["INTEL-IR", "APIC"]
        assert interrupt.levels[-1].domain == "VECTOR"
        remapping = remapping_level(interrupt)
        assert remapping is interrupt.levels[1]


@pytest.mark.parametrize("store", STORES, ids=lambda store: store.name)
def test_each_interrupt_has_the_irte_in_guest_memory_that_its_level_names(
    ims_device: PluggedFunction, store: Store
) -> None:
    ims_device.set_up(store, 4)
    named = set()
    for interrupt in of_store(ims_device, store):
        level = remapping_level(interrupt)
        assert level is not None
        named.add(entry_index(level.hwirq))
    assert named == set(ims_device.irtes())


def test_the_io_apic_is_behind_remapping_and_the_fault_event_is_not(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    by_chip: dict[str, list[MachineInterrupt]] = {}
    for interrupt in vm.control.irqs():
        if interrupt.levels:
            by_chip.setdefault(interrupt.levels[0].chip, []).append(interrupt)
    io_apic = [irq for chip, irqs in by_chip.items() if "IO-APIC" in chip for irq in irqs]
    assert io_apic
    assert all(remapping_level(irq) for irq in io_apic)
    fault_event = [irq for chip, irqs in by_chip.items() if "DMAR" in chip for irq in irqs]
    assert vm.spec.iommu is not None
    # Newer kernels set it up only where there is DMA translation.
    assert len(fault_event) == 1 or not vm.spec.iommu.dma_translation
    for irq in fault_event:
        assert remapping_level(irq) is None
        assert [level.chip for level in irq.levels] == ["DMAR-MSI", "APIC"]


def test_qemu_remaps_as_the_guest_believes(vm: Vm, ims_device: PluggedFunction) -> None:
    unit = vm.observer.unit()
    assert unit is not None
    assert unit.remapping_enabled
    assert not unit.faults
    behind = {
        entry_index(level.hwirq)
        for interrupt in vm.control.irqs()
        if interrupt.activated and (level := remapping_level(interrupt))
    }
    assert set(vm.observer.table().present_entries()) == behind
