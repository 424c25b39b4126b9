"""What each path of an interrupt message costs, side by side: row E6.

For each path and number of interrupts a guest takes them through their whole life, in rounds that
go through all paths in turn. Trapped accesses and host calls are counted in a round of their own,
because QEMU's trace, which counts those to the MSI-X table, takes time. A step's time is the guest
module's own, by the guest's clock; that of an interrupt is from its raise to the guest's answer.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Final

from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.devices.virte_function.events import Called
from harness.devices.virte_function.function import Area, VirteFunction
from harness.host.deadline import Deadline
from harness.hypervisor.host import Host
from harness.spec.interrupt import Store
from harness.spec.vfio import Command
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm, running_vm
from harness.vfio_user.transcript import Exchanged
from tests.bench.bench import Bench
from tests.bench.metrics import Summary

CPUS: Final = 12
"""Linux has some 200 vectors for each: enough for 2048 interrupts and what the guest needs."""
COUNTS: Final = (1, 8, 32, 256, 2048)
"""Interrupts at a time."""
ROUNDS: Final = 5
MOVED: Final = 16
"""Interrupts that are moved and raised at most: what one costs does not depend on the others. While
2048 are live, a CPU has vectors for some 30 more (docs/guest-module.md, "What to expect")."""
SECONDS: Final = 120.0
STEPS: Final = ("allocate", "request", "move", "mask", "unmask", "interrupt", "release", "free")


@dataclass(frozen=True, slots=True)
class Path:
    """One way for a message to get into its store."""

    name: str
    store: Store
    most: int = 2048
    mapped: bool = False
    call: bool = False
    """Over the vIRTE call, instead of the guest's own remapping."""


PATHS: Final = (
    Path("MSI", Store.MSI, most=32),
    Path("MSI-X", Store.MSIX),
    Path("IMS trapped", Store.IMS),
    Path("IMS mapped", Store.IMS, mapped=True),
    Path("hypercall", Store.IMS, mapped=True, call=True),
)


@dataclass(slots=True)
class Cost:
    """One step of a number of interrupts over one path."""

    path: str
    step: str
    count: int
    """Interrupts of the life that the step is of."""
    done: int
    """Interrupts that it was done to."""
    traps: int = 0
    """Trapped accesses to the store, and to the registers and frames of the call."""
    calls: int = 0
    """What the host was asked: DEVICE_SET_IRQS, and vIRTE calls."""
    seconds: list[float] = field(default_factory=list)
    """Of each round."""

    @property
    def each_us(self) -> float:
        """Microseconds for one interrupt: the median of the rounds."""
        return statistics.median(self.seconds) / self.done * 1e6

    @property
    def noise(self) -> float:
        """How far the rounds lie apart: their range over their median."""
        return (max(self.seconds) - min(self.seconds)) / statistics.median(self.seconds)


class Guest:
    """A guest for one path, and what is seen of it."""

    def __init__(self, path: Path, vm: Vm, plugged: PluggedFunction, virte: VirteFunction | None):
        self.path = path
        self._vm = vm
        self._plugged = plugged
        self._virte = virte

    def live(self, count: int, costs: dict[str, Cost], *, counted: bool) -> None:
        """Take interrupts through their life, and add what each step cost.

        :param counted: count accesses and calls; else take the time.
        """
        for step in STEPS:
            done = min(count, MOVED) if step in ("move", "interrupt") else count
            cost = costs.setdefault(step, Cost(self.path.name, step, count, done))
            if counted:
                cost.traps, cost.calls = self._count(step, done)
            else:
                cost.seconds.append(self.do(step, done))

    def _count(self, step: str, count: int) -> tuple[int, int]:
        events, virte = self._vm.machine.events, self._virte
        mark = events.mark()
        accesses = virte.accesses.mark() if virte else None
        with self._plugged.trapped() as traps:
            self.do(step, count)
        trapped = traps[self.path.store]
        asked = sum(
            item.direction == "<-" and item.message.command == Command.DEVICE_SET_IRQS
            for item in events.of(Exchanged, mark)
        )
        if virte is not None and accesses is not None:
            seen = virte.accesses.counts_since(accesses)
            trapped += sum(seen[area].total for area in (Area.CALLS, Area.FRAMES, Area.REGISTERS))
            # Of thousands of calls the first are not kept any more.
            asked += events.mark_of(Called).ends[Called] - mark.ends.get(Called, 0)
        return trapped, asked

    def do(self, step: str, count: int) -> float:
        """Do a step to a range of interrupts; return its seconds."""
        store, plugged = self.path.store, self._plugged
        if step == "interrupt":
            began = time.monotonic()
            for index in range(count):
                deadline = Deadline(SECONDS, f"{store.name} {index}")
                plugged.model.raise_and_wait(store, index, deadline)
            return time.monotonic() - began
        name = {"allocate": "alloc"}.get(step, step)
        words = {"cpu": 1} if step == "move" else {}
        reply = plugged.control.call(
            name, seconds=SECONDS, store=store.name.lower(), index=0, count=count, **words
        )
        return int(reply["nanoseconds"]) / 1e9


@contextlib.contextmanager
def guest_of(path: Path, bench: Bench) -> Iterator[Guest]:
    """Hold a guest that takes a path, with as many CPUs as the most interrupts need."""
    # In cluster mode the ninth CPU has a logical destination of more than eight bits, and no more
    # are in the compatibility format that carries a message of the call into QEMU.
    words = (*bench.machine.kernel_arguments, "x2apic_phys")
    spec = replace(bench.machine, cpus=CPUS, root_ports=2, kernel_arguments=words)
    function = ImsFunctionSpec(msix_vectors=2048, ims_mapped=path.mapped)
    with contextlib.ExitStack() as stack:
        workspace = bench.workspace(f"cost-{path.name.lower().replace(' ', '-')}")
        vm = stack.enter_context(running_vm(bench.guest, bench.qemu, spec, workspace))
        virte = None
        if path.call:
            virte = VirteFunction(Host(1 << 12, time.monotonic))
            stack.enter_context(vm.granted_call(virte))
        yield Guest(path, vm, stack.enter_context(vm.ims_function(function)), virte)


def costs(bench: Bench) -> list[Cost]:
    """Return what each step costs, over each path, for each number of interrupts."""
    table: dict[tuple[str, int], dict[str, Cost]] = {}
    with contextlib.ExitStack() as stack:
        guests = []
        for path in PATHS:
            with bench.progress.step(f"a guest for {path.name}"):
                guests.append(stack.enter_context(guest_of(path, bench)))
        for number in range((bench.rounds or ROUNDS) + 1):
            for guest in guests:
                with bench.progress.step(f"{guest.path.name}, round {number}"):
                    for count in (count for count in COUNTS if count <= guest.path.most):
                        row = table.setdefault((guest.path.name, count), {})
                        guest.live(count, row, counted=number == 0)
    return [cost for row in table.values() for cost in row.values()]


def trap_cost(bench: Bench) -> Summary:
    """Return how many accesses MSI-X traps for each one of the call; all costs beside it."""
    found = bench.shared(costs)

    def traps(path: str) -> int:
        return sum(cost.traps for cost in found if (cost.path, cost.count) == (path, COUNTS[-1]))

    ratio = traps("MSI-X") / traps("hypercall")
    rows = [asdict(cost) | {"each_us": cost.each_us, "noise": cost.noise} for cost in found]
    return replace(Summary.of([ratio]), table=rows)
