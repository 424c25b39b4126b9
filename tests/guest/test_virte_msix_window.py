"""After the grant the MSI-X table is mapped into the running guest, and trapped again after."""

from __future__ import annotations

import time

import pytest

from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.devices.virte_function.function import VirteFunction
from harness.host.deadline import Deadline
from harness.hypervisor.host import Host
from harness.pci.store_order import StoreAccess
from harness.spec.interrupt import Store
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import deliver, unbind

pytestmark = pytest.mark.shared_vm("module")

COUNT = 4


def enumerate_anew(vm: Vm, device: PluggedFunction) -> None:
    """Have the guest forget the function and find it again, as it runs."""
    vm.ssh.run(
        f"echo 1 > /sys/bus/pci/devices/{device.slot}/remove; echo 1 > /sys/bus/pci/rescan",
    )
    device.wait_bound()


def table_accesses(device: PluggedFunction) -> list[StoreAccess]:
    """Use MSI-X in every way, and return the trapped accesses to the table."""
    with device.trapped() as traps:
        device.set_up(Store.MSIX, COUNT)
        deliver(device, Store.MSIX, *range(COUNT))
        for cpu in (1, 0):
            device.move(Store.MSIX, cpu)
            event = device.model.raise_and_wait(Store.MSIX, 0, Deadline(10, f"one on CPU {cpu}"))
            assert event.cpu == cpu
        device.control.mask(Store.MSIX, 1)
        event = device.model.raise_interrupt(Store.MSIX, 1)
        device.control.unmask(Store.MSIX, 1)
        device.model.ledger.wait_answered(event, Deadline(10, "what waited for the unmask"))
        device.check_audit()
        device.control.release(Store.MSIX, count=COUNT)
        device.control.free(Store.MSIX, count=COUNT)
    return [access for access in traps.accesses(Store.MSIX) if access.index is not None]


@pytest.mark.cpus(2)
@pytest.mark.capability("E4")
def test_the_msix_table_is_mapped_between_grant_and_release(vm: Vm) -> None:
    door = VirteFunction(Host(64, time.monotonic))
    with vm.ims_function() as other, vm.ims_function(ImsFunctionSpec(msix_window=True)) as device:
        # The guest runs on: a neighbour keeps its driver and its interrupts all the time.
        other.set_up(Store.MSIX, 1)
        assert table_accesses(device)
        assert not device.irtes()
        with vm.granted_call(door) as served:
            deliver(other, Store.MSIX, 0)
            enumerate_anew(vm, device)
            assert table_accesses(device) == []
            deliver(other, Store.MSIX, 0)
            with device.trapped() as traps:
                device.set_up(Store.MSI, 1)
                deliver(device, Store.MSI, 0)
                device.control.release(Store.MSI)
                device.control.free(Store.MSI)
            assert traps[Store.MSI], "MSI in config space stays trapped"
            assert door.partition.host.handles.free == 64
            unbind(vm, served.slot)
        enumerate_anew(vm, device)
        assert table_accesses(device)
        deliver(other, Store.MSIX, 0)
        assert len(other.irtes()) == 1
