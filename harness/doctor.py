"""What this machine has of what imsh needs: tried, one by one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from harness.build.kernel import KernelRecipe
from harness.build.provision import Guest, Provisioner
from harness.build.qemu import QemuBinary
from harness.build.requirements import try_provisioning
from harness.config.recipes import load_machines
from harness.errors import HarnessError, MissingRequirement
from harness.guest.kernel_log import alarm
from harness.host.deadline import SLOWDOWN_VARIABLE, Deadline, wait_until
from harness.host.process import find_tool, run, running
from harness.host.requirements import Answer, Diagnosis, Presence, attempt
from harness.host.slowdown import measure_slowdown
from harness.host.workspace import Workspace
from harness.qemu.launch import Boot, running_machine
from harness.qemu.machine import BOOT_SECONDS
from harness.qemu.memory import guest_memory, memory_file
from harness.schema.names import choose
from harness.testbed.supplies import DEFAULT_MACHINE, make_provisioner

PYTHON: Final = (3, 11)
"""The lowest version, as pyproject.toml has it."""

KVM: Final = Path("/dev/kvm")
KVM_SECONDS: Final = 15.0
"""How long KVM may take to boot a guest: a working one needs two or three seconds."""

SLOW: Final = 2.0
"""How many times slower than the reference a machine is that needs longer time-outs."""

_CHILD: Final = """\
import mmap, sys, time
memory = mmap.mmap(int(sys.argv[1]), mmap.PAGESIZE)
memory[:4] = b"imsh"
print("mapped", flush=True)
time.sleep(60)
"""


def examine() -> Iterator[Diagnosis]:
    """Yield an answer for each requirement, as soon as there is one. Raises nothing.

    Takes some seconds; half a minute where there is a guest to boot.
    """
    yield attempt("Python", try_python)
    yield attempt("setpriv", try_setpriv)
    yield attempt("child's memory", try_child_memory)
    yield attempt("speed", try_speed, required=False)
    provisioner: Provisioner | None = None

    def try_cache() -> str:
        nonlocal provisioner
        found = make_provisioner()
        with found.cache.lock("doctor", "a diagnosis"):
            provisioner = found
        return f"{found.cache.directory} can be written"

    yield attempt("cache and recipes", try_cache)
    if provisioner is not None:
        yield from _examine_supplies(provisioner)


# The host.


def try_python() -> str:
    """Look at the interpreter that runs this.

    :raises MissingRequirement: it is too old.
    """
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < PYTHON:
        wanted = "Python {}.{} or later".format(*PYTHON)
        raise MissingRequirement(found, hint=f"make the virtual environment with {wanted}")
    return found


def try_setpriv() -> str:
    """Start a process by way of setpriv, as every process of ours is started.

    :raises MissingRequirement: there is none.
    :raises LaunchError: it is one (busybox has such) that cannot set the parent-death signal.
    """
    path = find_tool("setpriv", package="util-linux")
    run(["true"], deadline=Deadline(10, "a process under setpriv"))
    return str(path)


def try_child_memory() -> str:
    """Read a child's memory, as guest memory is read (:mod:`harness.qemu.memory`).

    :raises MissingRequirement: this host does not allow it.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="imsh-"))
        fd = stack.enter_context(memory_file(os.sysconf("SC_PAGESIZE")))
        log = Path(directory, "log")
        argv = [sys.executable, "-c", _CHILD, str(fd)]
        child = stack.enter_context(running(argv, name="child", log=log, pass_fds=[fd]))
        wait_until(lambda: "mapped" in log.read_text(), Deadline(20, "a child that maps memory"))
        memory = stack.enter_context(guest_memory(child.pid, fd))
        seen = memory.read(0, 4)
    if seen != b"imsh":
        raise MissingRequirement(f"what a child wrote is read as {seen.hex()}")
    return "readable through /proc/<pid>/mem"


def try_speed() -> Answer:
    """Time a piece of work. No machine is too slow, but a slow one needs longer time-outs."""
    factor = measure_slowdown()
    hint = None
    if factor > SLOW:
        hint = f"slow or busy: {SLOWDOWN_VARIABLE}={math.ceil(factor)} stretches every time-out"
    cpus = len(os.sched_getaffinity(0))
    return Answer(f"{factor:.1f} times as long as the reference machine, on {cpus} CPUs", hint)


# What is provided, and what it runs.


def _examine_supplies(provisioner: Provisioner) -> Iterator[Diagnosis]:
    yield from try_provisioning(provisioner)
    supplies = Supplies(provisioner)
    yield attempt("QEMU", supplies.find_qemu)
    for name, recipe in provisioner.recipes.kernels.items():
        # Bound now: a closure would see the last recipe only.
        find = functools.partial(supplies.find_guest, recipe)
        yield attempt(f"guest {name}", find, required=False)
    yield attempt("emulation", supplies.try_emulation)
    yield attempt("KVM", supplies.try_kvm, required=False)


class Supplies:
    """What is built, found piece by piece, and the machines that can be made of it.

    :param qemu: what :meth:`find_qemu` found.
    :param guest: the first that :meth:`find_guest` found: the one to boot.
    """

    def __init__(
        self, provisioner: Provisioner, qemu: QemuBinary | None = None, guest: Guest | None = None
    ):
        self._provisioner = provisioner
        self._qemu = qemu
        self._guest = guest

    def find_qemu(self) -> Answer:
        """Look for a QEMU that has the devices we need: each has been asked for them over QMP.

        :raises MissingRequirement: the one that ``IMSH_QEMU`` names will not do.
        """
        self._qemu = self._provisioner.find_qemu()
        if self._qemu is None:
            return _not_built("not fetched, and the host has none with vfio-user-pci", "")
        return Answer(f"{self._qemu.version}, {self._qemu.origin}")

    def find_guest(self, recipe: KernelRecipe) -> Answer:
        """Look for a kernel with its module and image."""
        guest = self._provisioner.find_guest(recipe)
        if guest is None:
            return _not_built("kernel, module or image are to be made", recipe.name)
        self._guest = self._guest or guest
        return Answer(f"Linux {guest.kernel.release}")

    def try_emulation(self) -> Answer:
        """Boot a guest by software emulation.

        :raises HarnessError: it does not boot.
        """
        if self._qemu is None or self._guest is None:
            return _NOTHING_TO_BOOT
        seconds = self._boot(self._qemu, self._guest, "tcg", BOOT_SECONDS)
        return Answer(f"a guest is ready after {seconds:.1f} s")

    def try_kvm(self, device: Path = KVM) -> Answer:
        """Boot a guest by KVM: there are hosts whose /dev/kvm cannot run ordinary kernels.

        :raises MissingRequirement: there is no KVM, or it does not boot the guest.
        """
        if self._qemu is None or self._guest is None:
            return _NOTHING_TO_BOOT
        try:
            os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise MissingRequirement(f"{device}: {error.strerror}", hint=_KVM_HINT) from error
        try:
            seconds = self._boot(self._qemu, self._guest, "kvm", KVM_SECONDS)
        except HarnessError as error:
            raise MissingRequirement(
                f"{device} is there and does not boot a guest: {error.message}",
                hint=_KVM_HINT,
                evidence=error.evidence,
            ) from error
        return Answer(f"a guest is ready after {seconds:.1f} s")

    @staticmethod
    def _boot(
        qemu: QemuBinary, guest: Guest, accelerator: Literal["tcg", "kvm"], limit: float
    ) -> float:
        """Return the seconds that a guest takes to its ready line.

        :raises HarnessError: it does not get there within ``limit`` seconds.
        """
        spec = choose(load_machines(), DEFAULT_MACHINE, what="machine")
        boot = Boot(kernel=guest.kernel.vmlinuz, image=guest.image.initramfs)
        deadline = Deadline(limit, "the guest's ready line")
        with (
            tempfile.TemporaryDirectory(prefix="imsh-") as directory,
            running_machine(
                dataclasses.replace(spec, accelerator=accelerator),
                qemu=qemu.argv,
                boot=boot,
                workspace=Workspace(Path(directory)),
                alarm=alarm,
            ) as machine,
        ):
            machine.wait_ready(deadline)
            seconds = deadline.seconds - deadline.remaining()
        return seconds


_NOTHING_TO_BOOT: Final = Answer("build a guest kernel first", "imsh build", Presence.NOT_TRIED)
_KVM_HINT: Final = (
    "not needed, imsh emulates; KVM takes read and write access to /dev/kvm, and in a virtual "
    "machine a hypervisor whose nested virtualization runs ordinary kernels"
)


def _not_built(detail: str, what: str) -> Answer:
    hint = f"nothing need be done; `imsh build {what}".rstrip() + "` makes it now"
    return Answer(detail, hint, Presence.NOT_BUILT)
