"""Machines that come to an end, in every way that they can, and are reported as what they are."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.build.provision import Guest, Provisioner
from harness.config.recipes import load_machines
from harness.errors import (
    DeadlineExpired,
    GuestLost,
    GuestPanic,
    HarnessError,
    LaunchError,
    QemuExited,
)
from harness.guest.kernel_log import alarm
from harness.guest.ssh import SshSession
from harness.host.cpio import archive
from harness.host.deadline import Deadline, wait_until
from harness.host.workspace import make_workspace
from harness.qemu.command import MachineSpec
from harness.qemu.launch import Boot, running_machine
from harness.qemu.machine import Machine, State
from harness.testbed.snapshots import Snapshots
from harness.testbed.supplies import DEFAULT_KERNEL, DEFAULT_MACHINE
from harness.testbed.vm import Vm


@dataclass(frozen=True)
class Lab:
    """What starts machines for these tests: each is the test's own, and not used again."""

    provisioner: Provisioner
    snapshots: Snapshots
    directory: Path

    @property
    def spec(self) -> MachineSpec:
        return load_machines()[DEFAULT_MACHINE]

    def guest(self) -> Guest:
        return self.provisioner.guest(self.provisioner.recipes.kernels[DEFAULT_KERNEL])

    def boot(self, *kernel_arguments: str) -> Boot:
        guest = self.guest()
        return Boot(
            kernel=guest.kernel.vmlinuz,
            image=guest.image.initramfs,
            kernel_arguments=kernel_arguments,
        )

    @contextlib.contextmanager
    def machine(self, boot: Boot) -> Iterator[Machine]:
        """Hold a machine that may or may not come up."""
        workspace = make_workspace(self.directory, "machine")
        qemu = self.provisioner.qemu().argv
        with running_machine(
            self.spec, qemu=qemu, boot=boot, workspace=workspace, alarm=alarm
        ) as machine:
            yield machine

    @contextlib.contextmanager
    def answering(self) -> Iterator[tuple[Machine, SshSession]]:
        """Hold a machine whose guest answers: how it came up is not what is tested."""
        workspace = make_workspace(self.directory, "machine")
        with self.snapshots.restored_vm(self.guest(), self.spec, workspace) as vm:
            yield vm.machine, vm.ssh


@pytest.fixture
def lab(provisioner: Provisioner, snapshots: Snapshots, tmp_path: Path) -> Iterator[Lab]:
    """The means to boot, and the proof that no thread and no descriptor is left."""
    threads, files = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))
    yield Lab(provisioner, snapshots, tmp_path)
    assert set(threading.enumerate()) - threads == set()
    assert set(os.listdir("/proc/self/fd")) - files == set()


def seconds(work: Callable[[], object], error: type[HarnessError], match: str) -> float:
    """Return how long it took until ``work`` raised the error."""
    start = time.monotonic()
    with pytest.raises(error, match=match):
        work()
    return time.monotonic() - start


def test_a_panic_ends_every_call_at_once_with_the_console(lab: Lab) -> None:
    with lab.answering() as (machine, ssh):
        took = seconds(
            lambda: ssh.run("echo c >/proc/sysrq-trigger; sleep 60"), GuestPanic, "panic"
        )
        assert took < 10
        with pytest.raises(GuestPanic, match="sysrq triggered crash") as caught:
            ssh.run("true")
        assert "Kernel panic - not syncing" in (caught.value.evidence or "")
        with pytest.raises(GuestPanic):
            machine.wait_ready()
        assert "running" in machine.qmp.human("info status"), "it can still be looked at"


def test_a_killed_qemu_ends_every_call_at_once(lab: Lab) -> None:
    with lab.answering() as (machine, ssh):
        timer = threading.Timer(0.2, os.kill, [machine.pid, signal.SIGKILL])
        timer.start()
        assert seconds(lambda: ssh.run("sleep 60"), QemuExited, "signal 9") < 10
        assert seconds(lambda: machine.qmp.human("info status"), QemuExited, "signal 9") < 1
        timer.join()


def test_a_guest_that_resets_itself_is_lost_but_stays_to_be_looked_at(lab: Lab) -> None:
    with lab.answering() as (machine, ssh):
        took = seconds(lambda: ssh.run("reboot -f; sleep 60"), GuestLost, "guest-reset")
        assert took < 10
        assert "paused" in machine.qmp.human("info status")


def test_a_power_off_that_was_asked_for_is_no_loss(lab: Lab) -> None:
    with lab.answering() as (machine, ssh):
        with machine.powering_off(), contextlib.suppress(HarnessError):
            ssh.run("poweroff -f", deadline=Deadline(1, "the power-off"))
        assert machine.state is State.OFF
        machine.vitals.check()


def test_a_device_is_plugged_in_and_out_while_the_guest_runs(lab: Lab) -> None:
    device = {"driver": "virtio-rng-pci", "id": "rng0", "bus": "port0"}
    with lab.answering() as (machine, ssh):
        machine.plug(device)
        present = "test -e /sys/bus/pci/devices/0000:01:00.0"
        wait_until(
            lambda: ssh.run(present, check=False).status == 0, Deadline(10, "the plugged device")
        )
        machine.unplug("rng0")
        assert ssh.run(present, check=False).status == 1


def test_a_guest_without_init_is_a_panic(lab: Lab, tmp_path: Path) -> None:
    image = tmp_path / "empty.cpio"
    image.write_bytes(archive([]))
    boot = Boot(kernel=lab.guest().kernel.vmlinuz, image=image)
    with lab.machine(boot) as machine:
        seconds(machine.wait_ready, GuestPanic, "panic")


def test_a_guest_that_is_not_ready_in_time_is_a_time_out_with_the_console(lab: Lab) -> None:
    with lab.machine(lab.boot()) as machine:
        machine.console.wait_for("Linux version", Deadline(20, "the kernel"))
        with pytest.raises(DeadlineExpired, match="the guest: nothing after") as caught:
            machine.wait_ready(Deadline(0.1, "the guest"))
    assert "[    0." in (caught.value.evidence or "")


def test_a_qemu_that_does_not_start_shows_its_words_and_its_arguments(
    lab: Lab, tmp_path: Path
) -> None:
    boot = Boot(kernel=tmp_path / "no-kernel", image=lab.guest().image.initramfs)
    with (
        pytest.raises(LaunchError, match="exit status 1") as caught,
        lab.machine(boot),
    ):
        pass
    evidence = caught.value.evidence or ""
    assert "could not open kernel file" in evidence
    assert "-append" in evidence.splitlines()[-1]


@pytest.mark.parametrize("moment", ["starting", "ready"])
def test_a_killed_harness_leaves_no_machine(lab: Lab, tmp_path: Path, moment: str) -> None:
    lab.guest()  # so that the child need not build it
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.guest.doomed", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    ) as child:
        try:
            assert child.stdout is not None
            pid = int(child.stdout.readline())
            if moment == "ready":
                assert child.stdout.readline() == "ready\n"
            assert running(pid)
        finally:
            child.kill()
    wait_until(lambda: not running(pid), Deadline(5, "QEMU's end"))
    assert list(temporary.iterdir()) == []


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


@pytest.mark.kernel(DEFAULT_KERNEL)
def test_guest_memory_is_what_the_guest_sees(vm: Vm) -> None:
    # The firmware's table of the IOMMU lies in RAM, and the guest can show it.
    line = re.search(r"ACPI: DMAR 0x([0-9A-F]+)", vm.kernel_log())
    assert line is not None
    table = vm.ssh.get("/sys/firmware/acpi/tables/DMAR")
    assert table[:4] == b"DMAR"
    assert vm.machine.memory.read(int(line[1], 16), len(table)) == table
