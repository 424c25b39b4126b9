"""Row D1: a kernel that was started by kexec begins in the old scheme, with no handle of the last.

The first kernel negotiates, and leaves by its own way: its drivers' shutdown and the RELEASE. One
of its drivers is a stock one that gives nothing back.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.build.provision import Provisioner
from harness.config.matrix import Cell
from harness.config.recipes import load_machines
from harness.devices.virte_function.function import VirteFunction
from harness.events.stream import Mark
from harness.guest.control import ControlError
from harness.guest.policy import Rule
from harness.host.deadline import Deadline, wait_until
from harness.host.workspace import make_workspace
from harness.hypervisor.host import Blocked, Fault, Host
from harness.qemu.console import ConsoleLine
from harness.qemu.machine import BOOT_SECONDS
from harness.spec.hypercall import CallStatus, Operation
from harness.spec.interrupt import Store
from harness.spec.msi import Message
from harness.testbed.kexec import NextKernel
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm, running_vm
from tests.guest.support import bind, blocked, deliver, holding_handles, store_message

HANDLES = 64
MODULE = "/lib/imsh/imstest.ko"


@dataclass
class Handover:
    """A guest that has changed its kernel, and what the one before has left."""

    vm: Vm
    door: VirteFunction
    device: PluggedFunction
    late: list[Message]
    """Pairs of the old kernel's handles."""

    def operations(self) -> list[int]:
        """Return the operation of each entry of each call, all of which succeeded."""
        calls = self.door.calls
        assert {call.answer.status for call in calls} == {CallStatus.OK}
        return [call.request.operation for call in calls for _ in call.entries or [None]]

    def check_late_messages(self) -> None:
        """Have the device send the old kernel's messages: each is blocked and counted."""
        host = self.door.partition.host
        before = host.blocked[Blocked.NO_HANDLE]
        for message in self.late:
            store_message(self.device, 2, message)
            blocked(self.device, 2)
        assert host.blocked[Blocked.NO_HANDLE] == before + len(self.late)


@contextmanager
def handed_over(
    provisioner: Provisioner, cell: Cell, directory: Path, *, stock: bool
) -> Iterator[Handover]:
    """Boot a kernel that negotiates and uses the device, and kexec into the next one."""
    guest = provisioner.guest(provisioner.recipes.kernels[cell.kernel])
    machine = dataclasses.replace(load_machines()[cell.machine], root_ports=3)
    workspace = make_workspace(directory, "machine")
    kernel = NextKernel(guest, only=provisioner.recipes.image.modules if stock else None)
    first = kernel.carried_by(guest, workspace)
    door = VirteFunction(Host(HANDLES, time.monotonic))
    with (
        running_vm(first, provisioner.qemu(), machine, workspace) as vm,
        holding_handles(vm, door) as device,
    ):
        vm.plug_emulated({"driver": "virtio-rng-pci", "id": "rng", "bus": "port2"})
        live = Deadline(20, "the interrupts of virtio-rng")
        wait_until(lambda: door.partition.live == 8, live)
        late = [device.message(Store.IMS, index) for index in range(4)]
        before = vm.machine.events.mark_of(ConsoleLine)
        with kernel.starting(vm):
            _check_released(vm, door, before)
            for message in late:  # nobody in the next kernel would take them yet
                outcome = door.translate(message, device.requester_id)
                assert isinstance(outcome, Fault)
                assert outcome.reason is Blocked.NO_HANDLE
        yield Handover(vm, door, device, late)
        device.model.ledger.assert_quiet()
        vm.check_kernel_log()


def _check_released(vm: Vm, door: VirteFunction, before: Mark) -> None:
    """Look at what the old kernel has left, when the next one says its first word."""
    vm.machine.events.wait(
        ConsoleLine,
        Deadline(BOOT_SECONDS, "the next kernel's first line"),
        lambda line: "Linux version" in line.text,
        since=before,
    )
    last = door.calls[-1]
    assert last.request.operation == Operation.RELEASE, f"no RELEASE:\n{door.table()}"
    assert last.answer.status == CallStatus.OK
    assert door.partition.live == 0


@pytest.mark.machine("remapping-only")
@pytest.mark.capability("D1", "D4")
def test_a_kernel_started_by_kexec_negotiates_anew(
    provisioner: Provisioner, vm_cell: Cell, tmp_path: Path
) -> None:
    with handed_over(provisioner, vm_cell, tmp_path, stock=False) as over:
        over.device.wait_bound()
        partition = over.door.partition
        operations = over.operations()
        end = operations.index(Operation.RELEASE)
        first, second = operations[:end], operations[end + 1 :]
        # What virtio-rng has kept is given back by the RELEASE.
        assert first.count(Operation.MAP) - first.count(Operation.UNMAP) == 2
        assert second[0] == Operation.NEGOTIATE
        over.device.set_up(Store.MSIX, 2)
        over.device.set_up(Store.IMS, 2)
        for cpu in (1, 0):
            over.device.move(Store.IMS, cpu)
            event = over.device.model.raise_and_wait(Store.IMS, 0, Deadline(10, f"CPU {cpu}"))
            assert event.cpu == cpu
        deliver(over.device, Store.MSIX, 0, 1)
        assert over.device.irtes() == {}
        assert partition.live == 4
        over.check_late_messages()


# The machine with DMA translation, where a kernel also leaves its doorbell pages mapped.
@pytest.mark.machine("caching")
@pytest.mark.capability("C9", "D1", "D4")
def test_a_stock_kernel_started_by_kexec_finds_the_old_scheme(
    provisioner: Provisioner, vm_cell: Cell, tmp_path: Path
) -> None:
    with handed_over(provisioner, vm_cell, tmp_path, stock=True) as over:
        vm, device = over.vm, over.device
        assert not vm.control.ping().module
        assert not over.door.partition.negotiated
        assert over.door.partition.host.handles.free == HANDLES
        assert vm.ssh.run("head -c 64 /dev/hwrng | wc -c").stdout.strip() == "64"
        # A driver for the device alone.
        vm.ssh.run(f"echo 0 > /sys/bus/pci/drivers_autoprobe; insmod {MODULE}")
        bind(vm, device.slot, "imstest")
        device.wait_bound()
        for store in (Store.MSIX, Store.MSI):
            device.set_up(store, 2)
            deliver(device, store, 0, 1)
            assert len(device.irtes()) == 2
            device.check_audit()
            device.control.release(store, count=2)
            device.control.free(store, count=2)
        vm.control.enforce(Rule.CALL)
        with pytest.raises(ControlError, match="EPERM"):
            device.control.alloc(Store.IMS, 1)
        vm.control.enforce(None)
        device.set_up(Store.IMS, 2)
        over.check_late_messages()
        assert over.operations()[-1] == Operation.RELEASE
