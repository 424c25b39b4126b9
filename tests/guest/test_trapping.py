"""Rows E1 and E3: who sees the guest's accesses to its message stores."""

from __future__ import annotations

import pytest

from harness.devices.ims_function.address_map import Area
from harness.pci.message_table import ENTRY_SIZE
from harness.qemu.trace import MSIX_TABLE
from harness.spec.ims_function import BAR_MSIX_SIZE
from harness.spec.interrupt import Store
from harness.spec.pci import CapabilityId
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import deliver


def wired(plugged: PluggedFunction, store: Store) -> set[int]:
    """Return the interrupts for which the host (QEMU) has set up an eventfd."""
    session = plugged.server.session
    assert session is not None
    return {
        index
        for index in range(plugged.model.spec.count(store))
        if session.irq_is_wired(store, index)
    }


@pytest.mark.capability("E1")
@pytest.mark.parametrize("store", [Store.MSI, Store.MSIX], ids=lambda store: store.name)
def test_every_access_is_trapped_and_the_host_sets_the_interrupt_up(
    ims_device: PluggedFunction, store: Store
) -> None:
    assert wired(ims_device, store) == set()
    with ims_device.trapped() as traps:
        ims_device.set_up(store, 4)
    assert traps[store] >= 4
    assert wired(ims_device, store) >= {0, 1, 2, 3}

    with ims_device.trapped() as traps:
        ims_device.control.mask(store, 1)
        ims_device.control.unmask(store, 1)
    assert traps[store] >= 2

    with ims_device.trapped() as traps:
        ims_device.control.release(store, count=4)
        ims_device.control.free(store, count=4)
    assert traps[store] >= 4
    assert wired(ims_device, store) == set()


@pytest.mark.capability("E1")
def test_the_trap_sees_the_messages_that_the_guest_writes_to_msix(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    with vm.machine.trapped_accesses() as trapped:
        ims_device.set_up(Store.MSIX, 3)
    # Offset in the BAR, which is aligned to its size, to the last value written there.
    written = {
        access.address % BAR_MSIX_SIZE: access.value
        for access in trapped.of(MSIX_TABLE)
        if access.write
    }
    for interrupt in ims_device.control.interrupts(Store.MSIX):
        entry = interrupt.index * ENTRY_SIZE
        assert written[entry] == interrupt.composed.address
        assert written[entry + 8] == interrupt.composed.data


@pytest.mark.capability("E1")
def test_the_trap_sees_the_message_that_the_guest_writes_to_msi(
    ims_device: PluggedFunction,
) -> None:
    ims_device.set_up(Store.MSI, 2)
    place = ims_device.model.config.capabilities[CapabilityId.MSI].offset
    written = {
        access.offset - place: access.value
        for access in ims_device.model.accesses.accesses(Area.MSI)
        if access.write
    }
    composed = ims_device.control.interrupt(Store.MSI, 0).composed
    assert (written[4], written[8], written[12]) == (composed.address, 0, composed.data)


LIFE = "allocate, request, deliver, mask, unmask, move, release, free"


def live(plugged: PluggedFunction) -> int:
    """Take 64 IMS interrupts through their whole life; return the trapped accesses to the array."""
    guest = plugged.control
    with plugged.trapped() as traps:
        plugged.set_up(Store.IMS, 64)
        deliver(plugged, Store.IMS, *range(0, 64, 8))
        guest.mask(Store.IMS, count=64)
        guest.unmask(Store.IMS, count=64)
        guest.move(Store.IMS, cpu=1, count=64)
        deliver(plugged, Store.IMS, *range(0, 64, 8))
        guest.release(Store.IMS, count=64)
        guest.free(Store.IMS, count=64)
    return traps[Store.IMS]


@pytest.mark.capability("E3")
@pytest.mark.device(ims_mapped=True)
def test_a_mapped_array_costs_no_trapped_access_in_its_whole_life(
    ims_device: PluggedFunction,
) -> None:
    assert live(ims_device) == 0


@pytest.mark.capability("E3")
@pytest.mark.device(ims_mapped=False)
def test_the_same_life_of_a_trapped_array_is_counted(ims_device: PluggedFunction) -> None:
    # Each of the 64 entries is written at least once for its message, its mask, and at the end.
    assert live(ims_device) >= 64 * 3
