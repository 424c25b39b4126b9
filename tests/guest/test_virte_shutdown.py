"""Row D1: a kernel that ends returns to the old scheme, whatever is started after it."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from harness.build.provision import Provisioner
from harness.config.matrix import Cell
from harness.config.recipes import load_machines
from harness.devices.virte_function.function import VirteFunction
from harness.errors import GuestLost
from harness.host.deadline import Deadline
from harness.host.workspace import make_workspace
from harness.hypervisor.host import Host
from harness.spec.hypercall import CallStatus, Operation
from harness.spec.interrupt import Store
from harness.testbed.vm import running_vm
from tests.guest.support import deliver


@pytest.mark.kernel("debian-6.12")
@pytest.mark.machine("remapping-only")
@pytest.mark.capability("D1")
def test_a_kernel_that_ends_releases_the_call_after_its_drivers(
    provisioner: Provisioner, vm_cell: Cell, tmp_path: Path
) -> None:
    guest = provisioner.guest(provisioner.recipes.kernels[vm_cell.kernel])
    machine = dataclasses.replace(load_machines()[vm_cell.machine], root_ports=2)
    function = VirteFunction(Host(64, time.monotonic))
    workspace = make_workspace(tmp_path, "machine")
    with (
        running_vm(guest, provisioner.qemu(), machine, workspace) as vm,
        vm.ims_function() as device,
    ):
        # Found before the function of the call: left to itself, the kernel shuts it down after it.
        with vm.granted_call(function):
            device.unbind()
            device.bind()
            device.set_up(Store.MSIX, 2)
            device.set_up(Store.IMS, 2)
            deliver(device, Store.IMS, 0, 1)
            before = len(function.calls)
            with pytest.raises(GuestLost, match="guest-reset"):
                vm.ssh.run("reboot -f; sleep 60", deadline=Deadline(30, "the reboot"))
        calls = list(function.calls)[before:]
        unmapped = [call for call in calls if call.request.operation == Operation.UNMAP]
        assert sum(len(call.entries) for call in unmapped) == 4
        assert calls[-1].request.operation == Operation.RELEASE
        assert {call.answer.status for call in calls} == {CallStatus.OK}
