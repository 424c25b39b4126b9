"""What was measured on two kernels, side by side: a pure function over the outcomes of runs.

A difference is a change only when it is larger than the noise of the same runs: than the range of
what was measured on either kernel. A count that is always the same has no noise.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from harness.report.measurement import measurements
from harness.report.outcome import Outcome

FEWEST: Final = 4
"""Samples of each kernel below which nothing is said: two of noise lie apart often enough."""

PER_SECOND: Final = "per second"
"""The end of the name of a quantity of which more is better; of the others, less is."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One quantity on one machine, as often as it was measured on each kernel."""

    quantity: str
    machine: str
    base: tuple[float, ...]
    patched: tuple[float, ...]

    @property
    def before(self) -> float:
        """The base's median."""
        return statistics.median(self.base)

    @property
    def after(self) -> float:
        """The patched kernel's median."""
        return statistics.median(self.patched)

    @property
    def noise(self) -> float:
        """How far apart the samples of one kernel lie: the wider range of the two."""
        return max(max(side) - min(side) for side in (self.base, self.patched))

    @property
    def changed(self) -> bool:
        """Whether the two kernels differ by more than the noise."""
        enough = min(len(self.base), len(self.patched)) >= FEWEST
        return enough and abs(self.after - self.before) > self.noise

    @property
    def worse(self) -> bool:
        """Whether the patched kernel is the more expensive one."""
        return (self.after < self.before) is self.quantity.endswith(PER_SECOND)


def compare_costs(base: Iterable[Outcome], patched: Iterable[Outcome]) -> list[Cost]:
    """Return what was measured on both kernels, in the order in which the base was measured."""
    on_base, on_patched = measurements(base), measurements(patched)
    return [
        Cost(quantity, machine, tuple(samples), tuple(on_patched[quantity, machine]))
        for (quantity, machine), samples in on_base.items()
        if (quantity, machine) in on_patched
    ]
