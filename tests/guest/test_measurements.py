"""What operations cost on this kernel, recorded for `imsh validate`: it compares two kernels by it.

Counts are of one life of some interrupts, step by step, over each path; a rate is the median of
some bursts. Each is a property of the outcome (:mod:`harness.report.measurement`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest

from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.host.deadline import Deadline
from harness.qemu.trace import TraceLine
from harness.report.measurement import measured
from harness.testbed.vm import Vm
from tests.bench.trap_cost import PATHS, STEPS, Cost, Guest, Path
from tests.guest.support import Virte

# Two kernels are compared, not two machines.
pytestmark = [pytest.mark.machine("caching"), pytest.mark.cpus(2)]

COUNT = 8
BURSTS = 3
BURST = 500
Recorder = Callable[[str, float], None]


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Recorder:
    """Takes a quantity and its value."""
    return lambda quantity, value: record_property(measured(quantity), value)


def invalidations(vm: Vm, guest: Guest, step: str) -> int:
    """Return how many requests of the guest a step takes to invalidate interrupt entries."""
    mark = vm.machine.events.mark()
    guest.do(step, COUNT)
    lines = vm.machine.events.of(TraceLine, mark)
    return sum(line.name == "vtd_inv_desc_iec" for line in lines)


def record_costs(record: Recorder, vm: Vm, guest: Guest) -> dict[str, Cost]:
    """Record what each step costs: accesses and calls in one life, invalidations in another."""
    costs: dict[str, Cost] = {}
    guest.live(COUNT, costs, counted=True)
    for step, cost in costs.items():
        record(f"{guest.path.name}, {step}: trapped accesses each", cost.traps / COUNT)
        record(f"{guest.path.name}, {step}: calls each", cost.calls / COUNT)
    for step in STEPS:
        record(
            f"{guest.path.name}, {step}: invalidations each", invalidations(vm, guest, step) / COUNT
        )
    return costs


@pytest.mark.parametrize("path", PATHS[:-1], ids=lambda path: path.name.replace(" ", "-"))
def test_a_path_is_counted_and_its_interrupts_are_timed(
    vm: Vm, path: Path, record: Recorder
) -> None:
    with vm.ims_function(ImsFunctionSpec(ims_mapped=path.mapped)) as plugged:
        costs = record_costs(record, vm, Guest(path, vm, plugged, None))
        assert (costs["mask"].traps == 0) is path.mapped
        plugged.set_up(path.store, COUNT)
        plugged.move(path.store, 1)
        rates = [
            plugged.model.burst(path.store, range(COUNT // 2), BURST).wait(Deadline(60, "a burst"))
            for _ in range(BURSTS + 1)
        ]
        # The first one warms QEMU's translations.
        record(f"{path.name}: interrupts per second", round(statistics.median(rates[1:])))


@pytest.mark.shared_vm("module")
def test_the_call_is_counted(vm: Vm, virte: Virte, record: Recorder) -> None:
    with vm.ims_function(ImsFunctionSpec(ims_mapped=True)) as plugged:
        costs = record_costs(record, vm, Guest(PATHS[-1], vm, plugged, virte.model))
        assert costs["move"].calls == COUNT
