"""Interrupts from the device to the guest's handler and back, MSI-X and IMS side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import running_vm
from tests.bench.bench import Bench
from tests.bench.metrics import Summary

ROUNDS: Final = 10
BURST: Final = 1000
"""Interrupts in one sample."""

BURST_SECONDS: Final = 60.0
STORES: Final = (Store.MSIX, Store.IMS)
IN_FLIGHT: Final = (1, 4)

Rates = dict[tuple[Store, int], list[float]]
"""Interrupts per second of each round, by store and number in flight."""


def rates(bench: Bench) -> Rates:
    """Raise, handle and answer in one machine: first each kind once, unseen, then in turn."""
    kinds = [(store, in_flight) for in_flight in IN_FLIGHT for store in STORES]
    result: Rates = {kind: [] for kind in kinds}
    guest, qemu = bench.guest, bench.qemu
    with contextlib.ExitStack() as stack:
        with bench.progress.step("a machine for interrupts"):
            workspace = bench.workspace("interrupts")
            vm = stack.enter_context(running_vm(guest, qemu, bench.machine, workspace))
            plugged = stack.enter_context(vm.ims_function(ImsFunctionSpec(ims_mapped=True)))
            for store in STORES:
                plugged.set_up(store, max(IN_FLIGHT))
                for index in range(max(IN_FLIGHT)):
                    # Alike for both stores, whatever the guest chose.
                    plugged.move(store, index % vm.spec.cpus, index)
            for kind in kinds:
                _burst(plugged, *kind)
        for _ in bench.counted("interrupts", ROUNDS):
            for kind in kinds:
                result[kind].append(_burst(plugged, *kind))
        plugged.model.ledger.assert_quiet()
    return result


def _burst(plugged: PluggedFunction, store: Store, in_flight: int) -> float:
    burst = plugged.model.burst(store, range(in_flight), BURST)
    return burst.wait(Deadline(BURST_SECONDS, f"{BURST} {store.name} interrupts"))


def irqs_per_second(store: Store, in_flight: int) -> Callable[[Bench], Summary]:
    """Return what measures the interrupts per second of a store, so many vectors in flight."""
    return lambda bench: Summary.of(bench.shared(rates)[store, in_flight])
