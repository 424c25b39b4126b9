"""What a machine boots for a guest, and what it needs for that."""

from __future__ import annotations

from dataclasses import replace

from harness.build.provision import Guest
from harness.guest.watchdogs import boot_words
from harness.host.deadline import timeout_factor
from harness.host.tsc import tsc_khz
from harness.qemu.command import MachineSpec
from harness.qemu.launch import Boot


def machine_of(guest: Guest, spec: MachineSpec) -> MachineSpec:
    """Return the machine that a guest runs in: with the memory that its kernel needs there."""
    return replace(spec, memory=spec.memory * guest.kernel.memory_factor)


def boot_of(guest: Guest, spec: MachineSpec, kernel_arguments: tuple[str, ...] = ()) -> Boot:
    """Return what a machine boots for a guest.

    The kernel's watchdogs are stretched. An emulated CPU's time stamp counter is the host's
    (QEMU's cpu_get_host_ticks()), and a kernel that measures its rate while the host is busy can
    be wrong by far: its clock races. So it is told, and by ``lpj`` each CPU, which measures it once
    more for udelay(): where that fails, udelay() returns at once, for as long as the guest runs.
    Under KVM it is told by itself. So nothing has to watch that counter, and nothing must before it
    is the kernel's clock: in Linux 7.3 the watchdog has two CPUs wait for each other
    (kernel/time/clocksource.c, watchdog_wait_seq()) by a clock that stands still when it is jiffies
    and the CPU that counts them waits with interrupts off.
    """
    rate = tsc_khz() if spec.accelerator == "tcg" else None
    clock = [f"tsc_early_khz={rate}", "tsc=nowatchdog"] if rate else []
    if rate and guest.kernel.hz:
        clock.append(f"lpj={1000 * rate // guest.kernel.hz}")
    return Boot(
        kernel=guest.kernel.vmlinuz,
        image=guest.image.initramfs,
        kernel_arguments=(*boot_words(timeout_factor()), *clock, *kernel_arguments),
    )
