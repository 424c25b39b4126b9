"""Row C9: a kernel that has never heard of the call finds the machine as it always was.

The hypervisor would grant everything. What it offers is a PCI function for which nobody has a
driver, and it does nothing for a kernel that does not ask.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from harness.config.matrix import Cell
from harness.devices.ims_function.function import ImsFunction
from harness.devices.virte_function.function import Area, VirteFunction
from harness.guest.control import ControlError
from harness.guest.policy import Rule
from harness.host.deadline import Deadline, wait_until
from harness.hypervisor.host import Host
from harness.qemu.pci import secondary_bus
from harness.spec.interrupt import Store
from harness.spec.pci import RequesterId
from harness.spec.vtd import RemappedEntry
from harness.testbed.lender import SHARED_PORTS, VmLender
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import deliver

pytestmark = pytest.mark.shared_vm("module")

HANDLES = 64
LAST_PORT = f"port{SHARED_PORTS - 1}"
"""Tests take a function each: this one is never reached."""
CURRENT = "/sys/class/misc/hw_random/rng_current"


class Seen(NamedTuple):
    """What a store's use looks like from the hypervisor's side."""

    store: Store
    accesses: list[tuple[str, int, bool]]
    """Trapped accesses to it: register, size, whether it was written."""
    remapped: bool
    """Each message names an IRTE."""
    sources: set[int]
    """Source ids of the IRTEs."""
    irtes: int


def use(device: PluggedFunction) -> list[Seen]:
    """Use every store, and return what there is to see of it."""
    return [_use(device, store) for store in STORES]


def _use(device: PluggedFunction, store: Store) -> Seen:
    with device.trapped() as traps:
        device.set_up(store, 2)
        deliver(device, store, 0, 1)
    messages = [device.message(store, index) for index in range(2)]
    irtes = device.irtes().values()
    for cpu in (1, 0):
        device.move(store, cpu)
        event = device.model.raise_and_wait(store, 0, Deadline(10, f"{store.name} on CPU {cpu}"))
        assert event.cpu == cpu
    device.check_audit()
    device.control.release(store, count=2)
    device.control.free(store, count=2)
    return Seen(
        store,
        [(access.register, access.size, access.write) for access in traps.accesses(store)],
        all(isinstance(device.irte(message), RemappedEntry) for message in messages),
        {entry.source_id for entry in irtes},
        len(irtes),
    )


def check_never_asked(door: VirteFunction) -> None:
    """Look whether the function was enumerated, and that is all."""
    partition = door.partition
    assert door.calls == []
    assert (partition.negotiated, partition.live) == (False, 0)
    assert partition.host.handles.free == HANDLES
    assert partition.host.blocked.total() == partition.host.handled == 0
    used = {area for area, count in door.accesses.counts_since().items() if count.total}
    assert used == {Area.CONFIG}


@contextmanager
def stock_kernel(vm: Vm) -> Iterator[None]:
    """While held, the guest's kernel has nothing of ours in it; after that no driver is bound.

    Nobody may have asked the control tool about the module: it keeps the module busy.
    """
    vm.ssh.run("rmmod imstest")
    yield
    probing = "/sys/bus/pci/drivers_autoprobe"
    vm.ssh.run(f"echo 0 > {probing}; insmod /lib/imsh/imstest.ko; echo 1 > {probing}")


@pytest.mark.machine("remapping-only")
@pytest.mark.capability("C9")
def test_a_kernel_without_the_call_uses_every_store_as_before(
    vm_lender: VmLender, vm_cell: Cell
) -> None:
    old_hypervisor = vm_lender.shared_vm(vm_cell, "old hypervisor")
    with old_hypervisor.ims_function() as device:
        before = use(device)
    assert {(seen.remapped, seen.irtes) for seen in before} == {(True, 2)}

    vm = vm_lender.shared_vm(vm_cell, "new hypervisor")
    door = VirteFunction(Host(HANDLES, time.monotonic))
    with stock_kernel(vm), vm.plugged(ImsFunction()) as served, vm.plugged(door) as offered:
        deadline = Deadline(20, "the guest finding the functions")
        functions = "ls /sys/bus/pci/devices"
        wait_until(lambda: offered.slot in vm.ssh.run(functions).stdout, deadline)
    device = PluggedFunction(served, vm.control)
    device.bind()
    assert use(device) == before
    # Where the call is needed there is no IMS: what counts is the grant.
    assert not vm.control.policy()[Rule.CALL].allowed
    vm.control.enforce(Rule.CALL)
    with pytest.raises(ControlError) as refused:
        device.control.alloc(Store.IMS, 1)
    assert refused.value.errno == errno.EPERM
    vm.control.enforce(None)
    check_never_asked(door)
    vm.check_kernel_log()


@pytest.mark.machine("caching")
@pytest.mark.capability("C9")
def test_a_stock_kernel_and_its_drivers_are_untouched(vm: Vm) -> None:
    with stock_kernel(vm), vm.plugged(VirteFunction(Host(HANDLES, time.monotonic))) as served:
        vm.machine.plug({"driver": "virtio-rng-pci", "id": "rng", "bus": LAST_PORT})
        bus = secondary_bus(vm.machine.qmp, LAST_PORT)

        def sources() -> list[int]:
            entries = vm.observer.table().present_entries().values()
            return [entry.source_id for entry in entries]

        deadline = Deadline(20, "the interrupts of virtio-rng")
        wait_until(lambda: sources().count(RequesterId.of(bus)) == 2, deadline)
        vm.ssh.run(f"echo virtio_rng.1 > {CURRENT}; head -c 64 /dev/hwrng > /run/random")
        assert vm.ssh.run("wc -c < /run/random").stdout.strip() == "64"
        check_never_asked(served.model)
