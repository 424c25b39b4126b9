"""The vIRTE call: what a batch and a move cost a guest, and the rate of interrupts over it.

The rate is held against that of a function of the same guest that was bound before the call was
negotiated: its messages are remapped, in turn with those of the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.devices.virte_function.function import VirteFunction
from harness.host.deadline import Deadline
from harness.hypervisor.host import Host
from harness.pci.access_log import Mark
from harness.spec.hypercall import FRAME_ENTRIES
from harness.spec.interrupt import Store
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import running_vm
from tests.bench.bench import Bench
from tests.bench.metrics import Summary

ROUNDS: Final = 10
ENTRIES: Final = 2048
BURST: Final = 1000
SPEC: Final = ImsFunctionSpec(ims_mapped=True)


@dataclass(slots=True)
class Costs:
    """A sample of each kind for each round."""

    batch_seconds: list[float] = field(default_factory=list)
    """To allocate ENTRIES, by the guest's clock."""
    map_traps: list[float] = field(default_factory=list)
    """Trapped accesses of that, for each 64 entries."""
    retarget_traps: list[float] = field(default_factory=list)
    """Trapped accesses of a move."""
    rate_ratios: list[float] = field(default_factory=list)
    """Interrupts per second over the call, by those that are remapped."""


def costs(bench: Bench) -> Costs:
    """Measure everything in one guest."""
    result = Costs()
    machine = dataclasses.replace(bench.machine, root_ports=3)
    call = VirteFunction(Host(2 * ENTRIES, time.monotonic))
    with contextlib.ExitStack() as stack:
        with bench.progress.step("a machine for the call"):
            workspace = bench.workspace("hypercall")
            vm = stack.enter_context(running_vm(bench.guest, bench.qemu, machine, workspace))
            remapped = stack.enter_context(vm.ims_function(SPEC))
            stack.enter_context(vm.granted_call(call))
            called = stack.enter_context(vm.ims_function(SPEC))
            remapped.set_up(Store.IMS, 1)
        for _ in bench.counted("the call", ROUNDS):
            mark = call.accesses.mark()
            given = called.control.alloc(Store.IMS, ENTRIES, facts=False)
            result.batch_seconds.append(given.nanoseconds / 1e9)
            result.map_traps.append(_trapped(call, mark) * FRAME_ENTRIES / ENTRIES)

            called.control.request(Store.IMS)
            for cpu in (1, 0):
                mark = call.accesses.mark()
                called.control.move(Store.IMS, cpu)
                result.retarget_traps.append(_trapped(call, mark))
                # It carries out a move that the kernel has put off, and ends the one before.
                called.model.raise_and_wait(Store.IMS, 0, Deadline(10, "an interrupt"))
            result.rate_ratios.append(_rate(called) / _rate(remapped))
            called.control.release(Store.IMS)
            called.control.free(Store.IMS, count=ENTRIES)
    return result


def _trapped(call: VirteFunction, mark: Mark) -> int:
    return sum(counts.total for counts in call.accesses.counts_since(mark).values())


def _rate(plugged: PluggedFunction) -> float:
    burst = plugged.model.burst(Store.IMS, range(1), BURST)
    return burst.wait(Deadline(60, f"{BURST} interrupts"))


def cost(of: Callable[[Costs], list[float]]) -> Callable[[Bench], Summary]:
    """Return what measures one kind of cost."""
    return lambda bench: Summary.of(of(bench.shared(costs)))
