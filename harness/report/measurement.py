"""Numbers that a test has measured, in its outcome: how they get there and back.

record_property(measured("MSI-X, move: trapped accesses each"), 2.0)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from harness.report.outcome import Outcome

_PREFIX: Final = "measured "


def measured(quantity: str) -> str:
    """Return the name of the property under which a test records a quantity."""
    return f"{_PREFIX}{quantity}"


def measurements(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], list[float]]:
    """Return what was measured, in every run: by quantity and machine."""
    found: dict[tuple[str, str], list[float]] = {}
    for outcome in outcomes:
        for name, value in outcome.provenance.items():
            if name.startswith(_PREFIX):
                found.setdefault((name.removeprefix(_PREFIX), outcome.machine), []).append(
                    float(value)
                )
    return found
