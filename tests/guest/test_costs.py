"""Row E6: what each path of a message costs, side by side in one guest."""

from __future__ import annotations

import time

import pytest

from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.devices.virte_function.function import VirteFunction
from harness.hypervisor.host import Host
from harness.testbed.vm import Vm
from tests.bench.trap_cost import PATHS, STEPS, Cost, Guest, Path

COUNT = 8


def life(vm: Vm, path: Path, virte: VirteFunction | None = None) -> dict[str, Cost]:
    """Return what the life of some interrupts costs over a path, step by step."""
    costs: dict[str, Cost] = {}
    with vm.ims_function(ImsFunctionSpec(ims_mapped=path.mapped)) as plugged:
        guest = Guest(path, vm, plugged, virte)
        for counted in (True, False):
            guest.live(COUNT, costs, counted=counted)
    assert list(costs) == list(STEPS)
    assert all(cost.seconds[0] > 0 for cost in costs.values())
    return costs


@pytest.mark.cpus(2)
@pytest.mark.capability("E6")
@pytest.mark.shared_vm("module")
def test_each_path_is_counted_and_timed_step_by_step(vm: Vm) -> None:
    msi, msix, trapped, mapped = (life(vm, path) for path in PATHS[:-1])
    with vm.granted_call(VirteFunction(Host(64, time.monotonic))) as virte:
        call = life(vm, PATHS[-1], virte.model)

    # A mapped store costs nothing, in any step; over the call each access is a call.
    assert sum(cost.traps + cost.calls for cost in mapped.values()) == 0
    assert {step: cost.traps for step, cost in call.items()} == {
        step: cost.calls for step, cost in call.items()
    }
    # The trap path costs accesses for each mask and unmask, and host set-up for each request.
    for path in (msi, msix, trapped):
        assert path["mask"].traps >= COUNT
        assert path["unmask"].traps >= COUNT
    assert msi["allocate"].calls >= 1
    assert msix["request"].calls >= COUNT
    assert trapped["request"].traps >= COUNT
    # A move costs an access over the call alone.
    assert call["move"].calls >= COUNT
    assert sum(path["move"].traps for path in (msi, msix, trapped)) == 0
    # Nothing is asked of the host for an interrupt that comes.
    for path in (msi, msix, trapped, mapped, call):
        assert path["interrupt"].traps == 0
