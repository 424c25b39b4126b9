# Ref: Linux Documentation/admin-guide/kernel-parameters.txt (maxcpus, nr_cpus, nosmp)
"""What a guest was started with, against what it says it has.

This is looked at first: a check that fails later for want of a CPU or of remapping would blame
another part of the kernel, or the harness.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import CheckFailed
from harness.qemu.command import MachineSpec


def expected_cpus(spec: MachineSpec, kernel_arguments: Sequence[str] = ()) -> int:
    """Return how many CPUs a sound kernel brings up: the machine's, if its words leave them."""
    count = spec.cpus
    for word in (*spec.kernel_arguments, *kernel_arguments):
        name, _, value = word.partition("=")
        if name == "nosmp":
            count = 1
        elif name in {"maxcpus", "nr_cpus"} and value.isdecimal():
            count = min(count, max(1, int(value)))  # maxcpus=0 is nosmp
    return count


def check_cpus(spec: MachineSpec, kernel_arguments: Sequence[str], online: int) -> None:
    """Compare the CPUs that are online with those that there should be.

    :raises CheckFailed: they differ.
    """
    if online != (expected := expected_cpus(spec, kernel_arguments)):
        words = " ".join((*spec.kernel_arguments, *kernel_arguments))
        raise CheckFailed(
            f"the guest has {online} CPUs online, and {expected} there should be: the machine "
            f"{spec.name} has {spec.cpus}" + (f", the kernel was given {words!r}" if words else "")
        )


def no_remapping(spec: MachineSpec) -> CheckFailed:
    """Return what to raise when a kernel does not use the remapping that its machine offers."""
    return CheckFailed(
        f"the kernel as configured has not enabled the interrupt remapping that {spec.name} offers",
        hint="look for DMAR-IR in its log, and for intremap= and iommu= on its command line",
    )
