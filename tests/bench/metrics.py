"""What a metric is, what is said of its samples, and how both are written down."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from tests.bench.bench import Bench


@dataclass(frozen=True, slots=True)
class Goal:
    """Where a value should be. Shown beside the value, never enforced: machines are shared."""

    limit: float
    at_least: bool = False

    def met_by(self, value: float) -> bool:
        """Return whether a value is where it should be."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {short(self.limit)}"


@dataclass(frozen=True, slots=True)
class Summary:
    """What is said of the samples of one metric; ``value`` is their median."""

    value: float
    n: int
    min: float
    p50: float
    p95: float
    max: float
    extra: Mapping[str, float] = field(default_factory=dict)
    """Further numbers by name, e.g. ``p99``."""
    table: Sequence[Mapping[str, object]] = ()
    """What the value is from, for a reader of the JSON."""

    @classmethod
    def of(cls, samples: Iterable[float], *, percentiles: Sequence[int] = ()) -> Self:
        """Summarise samples, with further ``percentiles`` as extras.

        :raises ValueError: there are none, or one is not a finite number.
        """
        ordered = sorted(samples)
        if not ordered or not all(map(math.isfinite, ordered)):
            raise ValueError("a summary takes at least one sample, all of them finite")
        median = percentile(ordered, 50)
        return cls(
            value=median,
            n=len(ordered),
            min=ordered[0],
            p50=median,
            p95=percentile(ordered, 95),
            max=ordered[-1],
            extra={f"p{rank}": percentile(ordered, rank) for rank in percentiles},
        )


def percentile(ordered: Sequence[float], rank: float) -> float:
    """Return the value that ``rank`` percent of sorted samples lie below, interpolated."""
    place = (len(ordered) - 1) * rank / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One row of the table: what is measured, and the function that measures it."""

    name: str
    unit: str
    measure: Callable[[Bench], Summary]
    """May share what it observed with other metrics: see ``Bench.shared``."""
    against: str
    """What it is measured against, or how; for a human."""
    goal: Goal | None = None
    of_tree: bool = False
    """Whether it is about a kernel tree of the user's."""


def write_json(path: Path, results: Mapping[Metric, Summary]) -> None:
    """Write results by name, in one step: a reader or a killed run never leaves half a file."""
    content = {metric.name: _plain(metric, summary) for metric, summary in results.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _plain(metric: Metric, summary: Summary) -> dict[str, object]:
    return {
        "value": summary.value,
        "unit": metric.unit,
        "n": summary.n,
        "min": summary.min,
        "p50": summary.p50,
        "p95": summary.p95,
        "max": summary.max,
        **summary.extra,
        **({"table": list(summary.table)} if summary.table else {}),
    }


_HEADER: Final = ("metric", "value", "unit", "goal", "n", "min", "p95", "max", "", "against")
_LEFT_ALIGNED: Final = {"metric", "unit", "goal", "", "against"}


def table(results: Mapping[Metric, Summary]) -> str:
    """Return results as an aligned table, a line each, goals beside the values."""
    rows = [_HEADER, *(_row(metric, summary) for metric, summary in results.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(
            cell.ljust(width) if title in _LEFT_ALIGNED else cell.rjust(width)
            for cell, width, title in zip(row, widths, _HEADER, strict=True)
        ).rstrip()
        + "\n"
        for row in rows
    )


def _row(metric: Metric, summary: Summary) -> tuple[str, ...]:
    goal = ""
    if metric.goal:
        goal = f"{metric.goal} {'met' if metric.goal.met_by(summary.value) else 'MISSED'}"
    numbers = (summary.min, summary.p95, summary.max)
    extra = " ".join(f"{name} {short(value)}" for name, value in summary.extra.items())
    return (
        metric.name,
        short(summary.value),
        metric.unit,
        goal,
        str(summary.n),
        *map(short, numbers),
        extra,
        metric.against,
    )


def short(value: float) -> str:
    """Return a number with three digits or more that count: 1.27, 27.4, 61651."""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(digits, 0), 6)}f}"
