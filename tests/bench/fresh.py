"""Fresh VMs: how soon one answers, beside a cold boot, and what many of them cost."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from harness.testbed.snapshots import Snapshots
from harness.testbed.vm import Vm, running_vm
from tests.bench.bench import Bench
from tests.bench.boot import raw_boots
from tests.bench.metrics import Summary

ROUNDS: Final = 4
FRESH_A_ROUND: Final = 6
IDLE_VMS: Final = 5
VMS_A_WORKER: Final = 8

Lend = Callable[[], contextlib.AbstractContextManager[Vm]]


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of what was started in turn."""

    raw: float
    """Plain QEMU to init's first line."""
    cold: float
    """A cold boot, device plugged, to the first answer of the guest's driver."""
    fresh: float
    """The same from a snapshot: the median of several."""


@dataclass(frozen=True, slots=True)
class Starts:
    """Seconds of each kind of start, in the order in which they were made."""

    fresh: list[float]
    """From a snapshot, device plugged, to the first answer of the guest's driver."""
    ssh: list[float]
    """From a snapshot to an open SSH session."""
    rounds: list[Round]


def fresh_vms(bench: Bench) -> Lend:
    """Return what lends fresh VMs; the snapshot is there when it returns."""
    snapshots = Snapshots(bench.provisioner.cache, bench.qemu)
    guest, spec = bench.guest, bench.machine
    snapshots.provide(guest, spec, bench.workspace("snapshot"))
    return lambda: snapshots.restored_vm(guest, spec, bench.workspace("fresh"))


def seconds_to_driver(lend: Lend) -> float:
    """Return how long it takes until a guest's driver answers for its plugged function."""
    start = time.monotonic()
    with lend() as vm, vm.ims_function() as plugged:
        plugged.control.facts()
        return time.monotonic() - start


def seconds_to_ssh(lend: Lend) -> float:
    """Return how long it takes until a guest's SSH session is open."""
    start = time.monotonic()
    with lend() as vm:
        assert vm.ssh is not None
        return time.monotonic() - start


def starts(bench: Bench) -> Starts:
    """Start in turn, so that what befalls one befalls all: raw and cold boot, then fresh VMs."""
    fresh, raw_boot = bench.shared(fresh_vms), bench.shared(raw_boots)

    def cold() -> contextlib.AbstractContextManager[Vm]:
        return running_vm(bench.guest, bench.qemu, bench.machine, bench.workspace("cold"))

    with bench.progress.step("fresh VMs that fill the host's page cache"):
        seconds_to_driver(fresh)
    result = Starts([], [], [])
    for _ in bench.counted("cold boot and fresh VMs", ROUNDS):
        raw, booted = raw_boot(), seconds_to_driver(cold)
        taken = [seconds_to_driver(fresh) for _ in range(FRESH_A_ROUND)]
        result.fresh.extend(taken)
        result.ssh.extend(seconds_to_ssh(fresh) for _ in range(FRESH_A_ROUND))
        result.rounds.append(Round(raw, booted, median(taken)))
    return result


def fresh_vm_s(bench: Bench) -> Summary:
    """Return the seconds from nothing to a plugged device whose driver answers."""
    return Summary.of(bench.shared(starts).fresh)


def fresh_vm_ssh_s(bench: Bench) -> Summary:
    """Return the seconds from nothing to an open SSH session."""
    return Summary.of(bench.shared(starts).ssh)


def fresh_vm_speedup(bench: Bench) -> Summary:
    """Return how many times sooner a fresh VM answers than a cold boot, a sample a round."""
    return Summary.of(each.cold / each.fresh for each in bench.shared(starts).rounds)


def fresh_vm_speedup_raw(bench: Bench) -> Summary:
    """Return how many times sooner a fresh VM answers than plain QEMU boots to init."""
    return Summary.of(each.raw / each.fresh for each in bench.shared(starts).rounds)


def fresh_vms_per_min(bench: Bench) -> Summary:
    """Return how many VMs come, answer and go in a minute, with one worker on each CPU."""
    lend = bench.shared(fresh_vms)
    workers = len(os.sched_getaffinity(0))

    def work() -> None:
        for _ in range(VMS_A_WORKER):
            seconds_to_driver(lend)

    rates = []
    for _ in bench.counted("VMs one after the other on every CPU", 3):
        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(work) for _ in range(workers)]:
                done.result()
        rates.append(60 * workers * VMS_A_WORKER / (time.monotonic() - start))
    return Summary.of(rates)


def private_mb_per_vm(bench: Bench) -> Summary:
    """Return the megabytes that each of several idle VMs of one snapshot has for itself."""
    lend = bench.shared(fresh_vms)
    with contextlib.ExitStack() as stack, bench.progress.step(f"{IDLE_VMS} idle VMs"):
        machines = [stack.enter_context(lend()).machine for _ in range(IDLE_VMS)]
        return Summary.of(_private_bytes(machine.pid) / 1e6 for machine in machines)


def _private_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.findall(r"^Private_(?:Clean|Dirty|Hugetlb):\s+(\d+) kB$", rollup, re.MULTILINE)
    return 1024 * sum(map(int, found))
