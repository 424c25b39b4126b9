"""Guests that are there at once: booted one time, saved, and continued as often as needed.

A snapshot is an entry of the cache, under a key of all that went into it. What is found unusable
there, by its digests or by QEMU, is thrown away and made again, once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.build.provision import Guest
from harness.build.qemu import QemuBinary
from harness.errors import (
    DeadlineExpired,
    GuestLost,
    LaunchError,
    ProtocolError,
    QemuExited,
)
from harness.guest.kernel_log import alarm
from harness.guest.watchdogs import fresh_words
from harness.host.cache import Cache, digest, digest_of_files
from harness.host.cpu import processor
from harness.host.deadline import Deadline, timeout_factor, wait_until
from harness.host.tsc import tsc_khz
from harness.host.workspace import Workspace
from harness.qemu import command as qemu_command
from harness.qemu import firmware as qemu_firmware
from harness.qemu import launch as qemu_launch
from harness.qemu import machine as qemu_machine
from harness.qemu import snapshot as qemu_snapshot
from harness.qemu.command import MachineSpec
from harness.qemu.launch import running_machine
from harness.qemu.snapshot import SavedState, SnapshotUnusable, Stamp
from harness.testbed import boot as testbed_boot
from harness.testbed.boot import boot_of, machine_of
from harness.testbed.vm import Vm, answering_vm, running_vm

log = logging.getLogger(__name__)

KIND: Final = "snapshot"
BOOT_LOG: Final = "console.log"
"""In the entry: the console of the boot, up to where it was saved."""
STRETCHED: Final = "watchdogs.json"
"""To what the guest's watchdogs were set when it was saved."""
RESTORED_BOOT_LOG: Final = "boot.log"
"""The same in the workspace of a machine that continues from a snapshot."""

KEPT: Final = 8
"""Snapshots of one name that stay: each change of the sources makes another, of some 100 MB."""

BOOTS: Final = 2
"""How often a guest may fail to come up before it is not booted again."""

IDLE_SPAN: Final = 0.3
IDLE_SHARE: Final = 0.9
IDLE_SECONDS: Final = 5.0
"""A guest is saved when its CPUs were idle for this share of a span (seconds), or then anyway."""

_UNUSABLE: Final = (
    SnapshotUnusable,
    LaunchError,
    QemuExited,
    ProtocolError,
    FileNotFoundError,
)
"""What the continuation of a snapshot that is no good ends with, until the guest has answered.

A panic, or a guest that is lost or silent, is none of these: the files are as they were saved, so
that is a result. To try again until it goes well would hide it.
"""

# What a saved machine is made by: a change here makes it anew.
_MAKERS: Final = (
    qemu_command,
    qemu_firmware,
    qemu_launch,
    qemu_machine,
    qemu_snapshot,
    testbed_boot,
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A guest that was booted and saved."""

    guest: Guest
    spec: MachineSpec
    kernel_arguments: tuple[str, ...]
    key: str
    saved: SavedState

    @property
    def name(self) -> str:
        """Its name in the cache."""
        return f"{self.guest.kernel.name}-{self.spec.name}"


class Snapshots:
    """The snapshots of a cache, for one QEMU."""

    def __init__(self, cache: Cache, qemu: QemuBinary):
        self._cache = cache
        self._qemu = qemu
        self._checked: dict[SavedState, Stamp] = {}
        self._failures: dict[SavedState, list[GuestLost | DeadlineExpired]] = {}

    def provide(
        self,
        guest: Guest,
        spec: MachineSpec,
        workspace: Workspace,
        *,
        kernel_arguments: tuple[str, ...] = (),
    ) -> Snapshot:
        """Return the snapshot of a guest, after booting it if need be.

        All of a snapshot is read and checked when it is first asked for here, and when a file of it
        was touched since.

        :param workspace: where a boot leaves its files, in ``boot/``.
        :raises HarnessError: the guest did not come up; see :func:`running_vm`.
        :raises BuildError: the disk is full; nothing is left behind.
        """
        key = self._key(guest, spec, kernel_arguments)
        name = f"{guest.kernel.name}-{spec.name}"
        saved = SavedState(self._cache.directory / KIND / f"{name}-{key}")
        snapshot = Snapshot(guest, spec, kernel_arguments, key, saved)
        if self._checked.get(saved) == saved.stamp():
            return snapshot
        self._boot_once_more(snapshot, workspace)
        tried, stamp = time.time(), saved.stamp()
        try:
            saved.check()
        except SnapshotUnusable as error:
            self._make_again(snapshot, workspace, error, tried)
            stamp = saved.stamp()
        self._checked[saved] = stamp
        return snapshot

    def _boot_once_more(self, snapshot: Snapshot, workspace: Workspace) -> None:
        """Make a snapshot that is not there, unless its guest has failed to come up already.

        A kernel that hangs would otherwise cost each test of a suite the time-out of a boot.
        """
        failures = self._failures.setdefault(snapshot.saved, [])
        if len(failures) >= BOOTS:
            first = failures[0]
            raise type(first)(
                f"{first.message} (not booted again: it failed {BOOTS} times)",
                hint=first.hint,
                evidence=first.evidence,
            )
        try:
            self._make(snapshot, workspace)
        except QemuExited:
            raise
        except (GuestLost, DeadlineExpired) as error:
            failures.append(error)
            raise

    @contextlib.contextmanager
    def restored_vm(
        self,
        guest: Guest,
        spec: MachineSpec,
        workspace: Workspace,
        *,
        kernel_arguments: tuple[str, ...] = (),
    ) -> Iterator[Vm]:
        """Hold a guest that continues from its snapshot and answers; it is ended at exit.

        It shares memory with every other one, until it writes there. Its clock, its random numbers
        and its SSH server's keys are its own.

        :raises HarnessError: as :meth:`provide`, or the snapshot was refused twice.
        """
        snapshot = self.provide(guest, spec, workspace, kernel_arguments=kernel_arguments)
        tried = time.time()
        with contextlib.ExitStack() as stack:
            try:
                vm = stack.enter_context(self._continued(snapshot, workspace))
            except _UNUSABLE as error:
                self._make_again(snapshot, workspace, error, tried)
                vm = stack.enter_context(self._continued(snapshot, workspace))
            yield vm

    @contextlib.contextmanager
    def _continued(self, snapshot: Snapshot, workspace: Workspace) -> Iterator[Vm]:
        shutil.copy(snapshot.saved.directory / BOOT_LOG, workspace.path(RESTORED_BOOT_LOG))
        workspace.write(
            "console.log", f"(continued from a snapshot: its boot is in {RESTORED_BOOT_LOG})\n"
        )
        with (
            running_machine(
                machine_of(snapshot.guest, snapshot.spec),
                qemu=self._qemu.argv,
                boot=boot_of(snapshot.guest, snapshot.spec, snapshot.kernel_arguments),
                workspace=workspace,
                alarm=alarm,
                saved=snapshot.saved,
            ) as machine,
            # A device that used the file behind memory in place would not see what the guest wrote.
            answering_vm(snapshot.guest, self._qemu, machine, direct_dma=False) as vm,
        ):
            watchdogs = fresh_words(timeout_factor())
            if watchdogs == _saved_watchdogs(snapshot.saved):
                watchdogs = {}
            vm.host.make_fresh(time.time(), secrets.token_bytes(32), watchdogs)
            yield vm

    def _make(self, snapshot: Snapshot, workspace: Workspace) -> None:
        def make(entry: Path, _log: Path) -> None:
            boot = Workspace(workspace.directory / "boot")
            self._boot_and_save(snapshot, entry, boot)
            # Room for one more: the new one is not counted until it is complete.
            self._cache.forget_old(KIND, snapshot.name, keep=KEPT - 1)

        self._cache.provide(
            KIND,
            snapshot.name,
            snapshot.key,
            make,
            sealed=lambda _: (),  # it has digests of its own, which skip the holes of memory
            writes_to=(workspace.directory,),
        )

    def _boot_and_save(self, snapshot: Snapshot, entry: Path, workspace: Workspace) -> None:
        with running_vm(
            snapshot.guest,
            self._qemu,
            snapshot.spec,
            workspace,
            kernel_arguments=snapshot.kernel_arguments,
        ) as vm:
            # Both ports have answered: nothing is on its way through them when it is saved.
            vm.host.ping()
            with contextlib.suppress(DeadlineExpired):
                _wait_idle(vm)
            vm.machine.save(entry)
        shutil.copy(workspace.path("console.log"), entry / BOOT_LOG)
        (entry / STRETCHED).write_text(json.dumps(fresh_words(timeout_factor())))

    def _make_again(
        self, snapshot: Snapshot, workspace: Workspace, error: Exception, tried: float
    ) -> None:
        """Replace a snapshot that was no good, unless another run has done so since ``tried``."""
        reason = str(error).partition("\n")[0]
        log.warning("snapshot %s is made again: %s", snapshot.name, reason)
        what = f"snapshot {snapshot.name}"
        with self._cache.lock(f"{KIND}-{snapshot.saved.directory.name}.repair", what):
            if snapshot.saved.made <= tried:
                self._cache.forget(KIND, snapshot.name, snapshot.key)
            self._make(snapshot, workspace)

    def _key(self, guest: Guest, spec: MachineSpec, kernel_arguments: tuple[str, ...]) -> str:
        # The name of an entry stands for its contents; the image's for the kernel's packages, too.
        booted = (guest.kernel.key, guest.image.initramfs.parent.name)
        makers = digest_of_files([Path(__file__), *(Path(str(m.__file__)) for m in _MAKERS)])
        qemu = (self._qemu.version, self._qemu.origin, self._qemu.digest)
        # Software emulation is the same on every host, but for the time stamp counter. Its rate is
        # measured: to 10 MHz, so that a border between two roundings is not where hosts are.
        cpu = processor() if spec.accelerator == "kvm" else round(tsc_khz() or 0, -4)
        return digest(booted, machine_of(guest, spec), kernel_arguments, qemu, cpu, makers)


def _saved_watchdogs(saved: SavedState) -> object:
    """Return the words that a saved guest need not be told again; None when nobody knows."""
    try:
        return json.loads((saved.directory / STRETCHED).read_text())
    except (OSError, ValueError):
        return None


def _wait_idle(vm: Vm) -> None:
    """Wait until the guest's CPUs have nothing to do.

    What it had still to do when it was saved, every guest that continues would do again.

    :raises DeadlineExpired: it was busy all the time.
    """
    deadline = Deadline(IDLE_SECONDS, "the guest to come to rest")
    begin, idle = _uptime(vm)

    def rested() -> bool:
        nonlocal begin, idle
        now, idle_now = _uptime(vm)
        if now < begin + IDLE_SPAN:
            return False
        share = (idle_now - idle) / (now - begin) / vm.spec.cpus
        begin, idle = now, idle_now
        return share >= IDLE_SHARE

    wait_until(rested, deadline)


def _uptime(vm: Vm) -> tuple[float, float]:
    """Return how long the guest has been up, and how long its CPUs were idle, all together."""
    up, idle = vm.host.read_file("/proc/uptime").split()
    return float(up), float(idle)
