"""Cold boot: the harness's, to the first answer over SSH, and beside it a raw one to init."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from harness.testbed.vm import running_vm
from tests.bench.bench import Bench
from tests.bench.metrics import Summary
from tests.bench.raw_boot import raw_boot, write_initramfs

ROUNDS: Final = 7


@dataclass(frozen=True, slots=True)
class Boots:
    """Seconds that each boot took, in the order in which they were made, one of each a round."""

    harness: list[float]
    raw: list[float]


def raw_boots(bench: Bench) -> Callable[[], float]:
    """Return what boots without the harness, to init, and returns the seconds."""
    initramfs = bench.workspace("raw-boot").path("initramfs.cpio")
    write_initramfs(initramfs)
    kernel = bench.guest.kernel.vmlinuz
    return lambda: raw_boot(bench.qemu, bench.machine, kernel=kernel, initramfs=initramfs)


def boots(bench: Bench) -> Boots:
    """Boot in turn, so that whatever else the machine does befalls both kinds alike."""
    guest, qemu, spec = bench.guest, bench.qemu, bench.machine
    raw = bench.shared(raw_boots)

    def harness() -> float:
        start = time.monotonic()
        with running_vm(guest, qemu, spec, bench.workspace("boot")) as vm:
            vm.ssh.run("true")
            return time.monotonic() - start

    with bench.progress.step("boots that fill the host's page cache"):
        raw()
        harness()
    result = Boots([], [])
    for _ in bench.counted("cold boots", ROUNDS):
        result.harness.append(harness())
        result.raw.append(raw())
    return result


def boot_to_ssh_ratio(bench: Bench) -> Summary:
    """Return how many times longer the harness took, a sample a round."""
    both = bench.shared(boots)
    return Summary.of(ours / raw for ours, raw in zip(both.harness, both.raw, strict=True))


def boot_to_ssh_s(bench: Bench) -> Summary:
    """Return the seconds from nothing to the first answer over SSH."""
    return Summary.of(bench.shared(boots).harness)


def raw_boot_s(bench: Bench) -> Summary:
    """Return the seconds from nothing to init in a raw boot."""
    return Summary.of(bench.shared(boots).raw)
