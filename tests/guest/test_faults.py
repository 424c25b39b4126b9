"""Interrupt messages that remapping blocks: the fault is in the unit, and in the guest's log.

The device sends what stands in the IMS array. QEMU's remapping unit makes the verdict and records
it; where a message comes from, and compatibility format, it cannot check, and our gate does.
"""

from __future__ import annotations

import pytest

from harness.guest.kernel_log import DmarFault
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store
from harness.spec.msi import (
    CompatibilityMessage,
    Message,
    RemappableAddress,
    RemappableMessage,
)
from harness.spec.vtd import (
    ENTRY_SIZE,
    FaultReason,
    GlobalStatus,
    Register,
    RemappedEntry,
    TableAddress,
)
from harness.testbed.observer import IOMMU_BASE
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import blocked, damaged, deliver, invalidate, store_message

VICTIM = 2
"""IMS entry whose message ends in a fault."""


@pytest.fixture(autouse=True)
def others_still_arrive(ims_device: PluggedFunction) -> object:
    ims_device.set_up(Store.IMS, 4)
    yield
    deliver(ims_device, Store.IMS, 0, 1, 3)
    ims_device.model.ledger.assert_quiet()


def irte_of_victim(plugged: PluggedFunction) -> int:
    request = plugged.message(Store.IMS, VICTIM).decode()
    assert isinstance(request, RemappableMessage)
    return request.index


def takes_faults(vm: Vm) -> bool:
    """Whether the guest's kernel has an interrupt for the unit's faults, and so logs them."""
    return any(level.chip == "DMAR-MSI" for irq in vm.control.irqs() for level in irq.levels)


def check_recorded(vm: Vm, reason: FaultReason, index: int | None) -> None:
    """Find the fault in the guest's log, or still in the unit if no kernel takes it from there."""
    fault = vm.expect_fault(reason, index, Deadline(5, f"the record of fault {reason:#x}"))
    assert isinstance(fault, DmarFault) is takes_faults(vm), fault


RESERVED = 1 << 127
"""A bit of an IRTE that has to be 0."""


@pytest.mark.parametrize(
    ("bits", "fields", "reason"),
    [
        (0, {"present": 0}, FaultReason.ENTRY_NOT_PRESENT),
        (RESERVED, {}, FaultReason.ENTRY_RESERVED),
    ],
    ids=["22h", "24h"],
)
def test_a_fault_of_the_irte_is_recorded_by_the_unit(
    vm: Vm, ims_device: PluggedFunction, bits: int, fields: dict[str, int], reason: FaultReason
) -> None:
    with damaged(vm, ims_device, VICTIM, bits=bits, **fields):
        event = blocked(ims_device, VICTIM)
        assert "EFAULT" in event.reason
    check_recorded(vm, reason, irte_of_victim(ims_device))
    deliver(ims_device, Store.IMS, VICTIM)


def test_a_fault_of_the_message_is_recorded_by_the_unit(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    sound = ims_device.message(Store.IMS, VICTIM)
    # Under SHV the upper half of the data has to be 0.
    subhandle_valid = RemappableAddress.unpack(sound.address).replace(subhandle_valid=1)
    store_message(ims_device, VICTIM, Message(subhandle_valid.value, 0x1_0000))
    assert "EFAULT" in blocked(ims_device, VICTIM).reason
    check_recorded(vm, FaultReason.REQUEST_RESERVED, None)
    store_message(ims_device, VICTIM, sound)
    deliver(ims_device, Store.IMS, VICTIM)


def test_a_fault_that_the_irte_keeps_quiet_is_blocked_all_the_same(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    with damaged(vm, ims_device, VICTIM, present=0, fault_disable=1):
        blocked(ims_device, VICTIM)
    # The end of the test finds no fault, neither logged nor in the unit.


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (CompatibilityMessage(1, 0x31).message(), FaultReason.COMPATIBILITY_BLOCKED),
        (RemappableMessage(0).message(), FaultReason.SOURCE_ID_MISMATCH),
        (RemappableMessage(0xFFFF, 1).message(), FaultReason.INDEX_BEYOND_TABLE),
    ],
    ids=["25h", "26h", "21h"],
)
def test_what_qemu_would_deliver_is_blocked_before_it(
    vm: Vm, ims_device: PluggedFunction, message: Message, reason: FaultReason
) -> None:
    sound = ims_device.message(Store.IMS, VICTIM)
    assert isinstance(ims_device.table().read_entry(0), RemappedEntry), "a pin of the IO-APIC"
    store_message(ims_device, VICTIM, message)
    assert f"({reason:#04x})" in blocked(ims_device, VICTIM).reason
    store_message(ims_device, VICTIM, sound)
    deliver(ims_device, Store.IMS, VICTIM)


# A table that moves.

NEW_TABLE = 0x0800_0000
NEW_ENTRIES = 256


@pytest.mark.kernel("debian-6.12")
@pytest.mark.cold_boot("iomem=relaxed", f"memmap=64K${NEW_TABLE:#x}")
def test_a_table_that_moves_is_the_one_that_counts(vm: Vm, ims_device: PluggedFunction) -> None:
    """The kernel's own table is left for one that is smaller, and has one entry changed."""
    old = ims_device.unit().table
    raw = vm.machine.memory.read(old.address, NEW_ENTRIES * ENTRY_SIZE)
    vm.machine.memory.write(NEW_TABLE, raw)
    index = irte_of_victim(ims_device)
    entry = ims_device.table().read_entry(index)
    new = old.replace(page=NEW_TABLE >> 12, size=NEW_ENTRIES.bit_length() - 2)
    set_table(vm, new)
    assert ims_device.unit().table == new
    unit = vm.observer.unit()
    assert unit is not None
    assert unit.table == new, "as the unit itself has it"

    deliver(ims_device, Store.IMS, VICTIM)
    vm.machine.memory.write(NEW_TABLE + index * ENTRY_SIZE, entry.replace(source_id=0x1234).pack())
    invalidate(vm)
    assert f"({FaultReason.SOURCE_ID_MISMATCH:#04x})" in blocked(ims_device, VICTIM).reason
    # The table has 256 entries now, and it is QEMU that knows.
    sound = ims_device.message(Store.IMS, VICTIM)
    store_message(ims_device, VICTIM, RemappableMessage(NEW_ENTRIES).message())
    assert "EFAULT" in blocked(ims_device, VICTIM).reason
    check_recorded(vm, FaultReason.INDEX_BEYOND_TABLE, NEW_ENTRIES)

    set_table(vm, old)
    store_message(ims_device, VICTIM, sound)
    deliver(ims_device, Store.IMS, VICTIM)


def set_table(vm: Vm, table: TableAddress) -> None:
    """Have the guest program the unit, as a kernel does that takes it over."""
    unit = vm.observer.unit()
    assert unit is not None
    command = GlobalStatus(
        translation_enabled=unit.status.translation_enabled,
        queued_invalidation_enabled=unit.status.queued_invalidation_enabled,
        remapping_enabled=1,
        remap_table_pointer_set=1,
    )
    vm.ssh.run(
        f"devmem {IOMMU_BASE + Register.IRTA:#x} 64 {table.value:#x}"
        f" && devmem {IOMMU_BASE + Register.GCMD:#x} 32 {command.value:#x}"
    )
    invalidate(vm)
