"""What a validation found, and the facts that a reader needs beside it: what every format shows."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from harness.errors import Verdict
from harness.report.verdict import graver
from harness.validate.comparison import Change, Compared, Comparison
from harness.validate.cost import Cost
from harness.validate.validation import Tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A validation that came to its end."""

    tree: str
    base: str
    """What git calls it; ``patched`` likewise."""
    patched: str
    series: tuple[str, ...]
    """The subjects of the patches that were tried, in their order."""
    matrix: str
    tests: tuple[str, ...]
    """What pytest was told to run."""
    rows: tuple[str, ...]
    """Rows of the capability table whose tests came first."""
    imsh: str
    host: str
    started: str
    seconds: float
    directory: str
    """Where the results of all runs are kept."""
    command: tuple[str, ...]
    """What does it all again."""
    tried: tuple[Tried, ...] = ()
    """The states of the patched tree; the last one is the whole of it."""
    costs: tuple[Cost, ...] = ()
    refused: str = ""
    """Why the series was not tried at all: a patch that does not apply."""

    @property
    def whole(self) -> Comparison:
        """The whole patched tree against the base; without a test when it was not built."""
        return (self.tried[-1].comparison if self.tried else None) or Comparison(())

    @property
    def not_built(self) -> list[Tried]:
        """The states that do not build."""
        return [item for item in self.tried if item.comparison is None]

    @property
    def machines(self) -> list[str]:
        """What the patched kernel ran on: kernel release, machine and QEMU of each."""
        ran = (outcome for test in self.whole.tests for outcome in test.patched.outcomes)
        known = [outcome.provenance for outcome in ran if "qemu" in outcome.provenance]
        names = ("kernel release", "machine", "qemu")
        machines = {tuple(one.get(name, "") for name in names) for one in known}
        return sorted(f"{release} on {machine}, QEMU {qemu}" for release, machine, qemu in machines)

    @property
    def changed_costs(self) -> list[Cost]:
        """What costs more or less than on the base, beyond the noise."""
        return [cost for cost in self.costs if cost.changed]

    @property
    def broken(self) -> list[Compared]:
        """What is broken on the whole patched tree, and then what only a part of it breaks."""
        found = {test.test: test for test in self.whole.of(Change.BROKEN)}
        for item in self.tried:
            for test in item.comparison.of(Change.BROKEN) if item.comparison else ():
                found.setdefault(test.test, test)
        return list(found.values())

    def culprit(self, test: Compared) -> Tried | None:
        """Return the first patch with which a test is broken, where each was tried."""
        if len(self.tried) < 2:
            return None
        return next((item for item in self.tried if _breaks(item, test.test)), None)

    @property
    def verdict(self) -> Verdict:
        """Whether something got worse: a test, a build, or what an operation costs."""
        if self.refused or self.not_built or any(cost.worse for cost in self.changed_costs):
            return Verdict.KERNEL_FAILURE
        verdicts = [item.comparison.verdict for item in self.tried if item.comparison]
        if Verdict.KERNEL_FAILURE in verdicts:
            return Verdict.KERNEL_FAILURE
        return functools.reduce(graver, verdicts, Verdict.PASS)

    @property
    def headline(self) -> str:
        """What happened, in one line."""
        if self.refused:
            return "the series does not apply"
        said = [f"{len(self.not_built)} of {len(self.tried)} does not build"] * bool(self.not_built)
        said += [f"{count(self.broken, 'test')} broken"] * bool(self.broken)
        worse = [cost for cost in self.changed_costs if cost.worse]
        said += [f"{count(worse, 'operation')} more expensive"] * bool(worse)
        if said:
            return ", ".join(said)
        return {
            Verdict.PASS: "nothing got worse",
            Verdict.MISSING_REQUIREMENT: "not everything that the base has run was run",
        }.get(self.verdict, "not known: the harness failed, or a failure is not certain")


def count(things: Iterable[object], noun: str) -> str:
    """Return how many there are: "1 test", "2 tests"."""
    number = len(list(things))
    return f"{number} {noun}{'s' * (number != 1)}"


def _breaks(item: Tried, test: str) -> bool:
    broken = item.comparison.of(Change.BROKEN) if item.comparison else ()
    return any(found.test == test for found in broken)
