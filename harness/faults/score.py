"""What became of each seeded fault, and the score of all of them."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from harness.errors import Verdict
from harness.faults.fault import Fault
from harness.report.outcome import Outcome

FAULT_PROPERTY: Final = "fault"
"""In an outcome's provenance: the fault of its machine, and where it was seeded."""

_BLAMES_THE_GUEST: Final = (Verdict.KERNEL_FAILURE, Verdict.TIME_OUT)


class Fate(enum.StrEnum):
    """What became of a fault."""

    CAUGHT = "caught"
    """A test of a row that should see it went red, and is green without it."""
    ELSEWHERE = "caught elsewhere"
    """Only a test of another row did."""
    MISSED = "missed"
    """Its tests passed with it."""
    MISJUDGED = "misjudged"
    """A test went red that is red without it as well, or that blamed the harness."""
    NOT_APPLICABLE = "not applicable"
    """The kernel has no place for it, or none of its tests is for this kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of one fault on one kernel."""

    fault: str
    kernel: str
    fate: Fate
    reason: str
    where: str = ""
    """Where it was seeded."""
    test: str = ""
    """The test that went red."""
    rows: tuple[str, ...] = ()
    """The rows that it claims."""
    seconds: float = 0.0

    def __str__(self) -> str:
        rows = f" ({', '.join(self.rows)})" if self.rows else ""
        test = self.test.rpartition("/")[2]
        return f"{self.fault} on {self.kernel}: {self.fate}{rows}: {test or self.reason}"


def judge(fault: Fault, kernel: str, outcomes: Sequence[Outcome]) -> Finding:
    """Say what became of a fault by the outcomes of its tests, which ended at the first red one."""

    seconds = sum(outcome.seconds for outcome in outcomes)
    reached = [outcome for outcome in outcomes if FAULT_PROPERTY in outcome.provenance]
    where = reached[0].provenance[FAULT_PROPERTY] if reached else ""

    def finding(fate: Fate, reason: str, test: str = "", rows: tuple[str, ...] = ()) -> Finding:
        return Finding(
            fault=fault.name,
            kernel=kernel,
            fate=fate,
            reason=reason,
            where=where,
            test=test,
            rows=rows,
            seconds=seconds,
        )

    for outcome in outcomes:
        if outcome.verdict in (Verdict.PASS, Verdict.MISSING_REQUIREMENT):
            continue
        if outcome not in reached or outcome.verdict not in _BLAMES_THE_GUEST:
            fate = Fate.MISJUDGED
        elif set(outcome.rows) & set(fault.rows):
            fate = Fate.CAUGHT
        else:
            fate = Fate.ELSEWHERE
        return finding(fate, outcome.message, outcome.test, outcome.rows)
    if reached:
        return finding(Fate.MISSED, f"{len(reached)} tests passed with it")
    skipped = outcomes[0].message if outcomes else "none of its tests is for this kernel"
    return finding(Fate.NOT_APPLICABLE, skipped)


@dataclass(frozen=True, slots=True)
class Score:
    """How many faults met each fate."""

    fates: Counter[Fate]

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> Score:
        """Return the score of findings."""
        return cls(Counter(finding.fate for finding in findings))

    @property
    def applicable(self) -> int:
        """How many faults could be seeded."""
        return self.fates.total() - self.fates[Fate.NOT_APPLICABLE]

    @property
    def percent(self) -> float:
        """How many of these in a hundred were caught by a row that should; 0 when there is none."""
        return 100 * self.fates[Fate.CAUGHT] / self.applicable if self.applicable else 0.0

    def __str__(self) -> str:
        counts = ", ".join(f"{self.fates[fate]} {fate}" for fate in Fate if self.fates[fate])
        return f"{counts or 'nothing was seeded'}: {self.percent:.0f} % of {self.applicable}"
