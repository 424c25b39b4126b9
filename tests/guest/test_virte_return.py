"""Whatever ends a kernel that has negotiated: the old scheme is back, and every handle free."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.build.provision import Provisioner
from harness.config.recipes import load_machines
from harness.devices.virte_function.events import ReturnedToOldScheme
from harness.devices.virte_function.function import VirteFunction
from harness.errors import GuestLost
from harness.host.deadline import Deadline
from harness.host.workspace import make_workspace
from harness.hypervisor.host import Host
from harness.testbed.supplies import DEFAULT_KERNEL
from harness.testbed.vm import Vm, running_vm
from tests.guest.support import holding_handles

HANDLES = 64


def is_old_scheme(door: VirteFunction) -> bool:
    partition = door.partition
    return not partition.negotiated and partition.host.handles.free == HANDLES


def reboot(vm: Vm) -> None:
    vm.ssh.run("reboot -f; sleep 60", deadline=Deadline(30, "the reboot"))


def panic(vm: Vm) -> None:
    vm.ssh.run("echo c >/proc/sysrq-trigger; sleep 60", deadline=Deadline(30, "the panic"))


def kill(vm: Vm) -> None:
    os.kill(vm.machine.pid, signal.SIGKILL)
    vm.ssh.run("true")


@pytest.mark.capability("D1")
@pytest.mark.parametrize("end", [reboot, panic, kill], ids=["reset", "panic", "kill"])
def test_a_guest_that_ends_leaves_no_handle(
    provisioner: Provisioner, tmp_path: Path, end: Callable[[Vm], None]
) -> None:
    door = VirteFunction(Host(HANDLES, time.monotonic))
    guest = provisioner.guest(provisioner.recipes.kernels[DEFAULT_KERNEL])
    machine = replace(load_machines()["remapping-only"], root_ports=2)
    workspace = make_workspace(tmp_path, "machine")
    with running_vm(guest, provisioner.qemu(), machine, workspace) as vm:
        events = vm.machine.events
        with holding_handles(vm, door), pytest.raises(GuestLost):
            end(vm)
    assert is_old_scheme(door)
    if end is not reboot:  # nobody has released anything
        (returned,) = events.of(ReturnedToOldScheme)
        assert returned.handles == 6
