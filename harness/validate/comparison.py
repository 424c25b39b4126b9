# Ref: LKP counts a failure only where the base passes the same test; syzkaller (pkg/instance,
#      patch testing) acquits a patch whose failure is seen once without it, and leaves out runs
#      that infrastructure lost. Fisher, "The Design of Experiments" (1935), II: the exact test.
"""What the tests said on two kernels, compared: a pure function over the outcomes of runs.

A test is compared on each kernel and machine of its own, by every run that there is of it. Runs
that say nothing about the kernel (the harness failed, something is missing) do not count.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import comb
from typing import Final

from harness.errors import Verdict
from harness.report.outcome import Outcome

AGAIN: Final = 3
"""How often a test is run again on both kernels when they differ."""
MOST: Final = 10
"""Runs on each after which a difference that is still not certain counts as flaky."""
CERTAIN: Final = 0.05
"""A difference is certain when chance alone would deal the failures so in fewer cases than this:
4 of 4 against none of 4, or 4 of 10 against none of 10."""
ENOUGH: Final = 25
"""Tests that are run again at a time, and broken ones after which no more are."""

_FAILURES: Final = (Verdict.KERNEL_FAILURE, Verdict.TIME_OUT)


class Change(enum.StrEnum):
    """What became of a test from the base to the patched kernel; the worst first."""

    BROKEN = "broken"
    """It passes on the base, always, and fails on the patched kernel: that is no chance."""
    UNSURE = "unsure"
    """It failed on one of them, and has not been run often enough to say more."""
    FLAKY = "flaky"
    """It passes and fails on the same kernel, and not clearly more often on one."""
    NOT_RUN = "not run"
    """One of the two, or neither, said something."""
    NEW = "new"
    """The base has no such test, or lacks what it needs; the patched kernel has run it."""
    FIXED = "fixed"
    """It fails on the base, always, and passes on the patched kernel."""
    SAME = "same"
    """It passes on both, or fails on both, always."""


@dataclass(frozen=True, slots=True)
class Runs:
    """What one test said on one kernel, every time that it was run there."""

    outcomes: tuple[Outcome, ...] = ()

    @property
    def passed(self) -> int:
        """How many runs passed."""
        return sum(outcome.verdict is Verdict.PASS for outcome in self.outcomes)

    @property
    def failed(self) -> int:
        """How many runs failed, and the kernel is to blame."""
        return sum(outcome.verdict in _FAILURES for outcome in self.outcomes)

    @property
    def counted(self) -> int:
        """How many runs said something about the kernel."""
        return self.passed + self.failed

    @property
    def lost(self) -> bool:
        """Whether there were runs, and the harness or the host failed in each that began."""
        verdicts = {outcome.verdict for outcome in self.outcomes}
        return not self.counted and bool(verdicts - {Verdict.MISSING_REQUIREMENT})

    @property
    def failure(self) -> Outcome | None:
        """The first failure that the kernel is to blame for."""
        return next((item for item in self.outcomes if item.verdict in _FAILURES), None)

    def __str__(self) -> str:
        """Say it in a word or two: "passed", "failed 2 of 4", "not run"."""
        if self.counted:
            if self.counted == 1:
                return "failed" if self.failed else "passed"
            return f"failed {self.failed} of {self.counted}"
        return self.outcomes[-1].verdict.value if self.outcomes else "not run"


@dataclass(frozen=True, slots=True)
class Compared:
    """One test on one kernel and machine of the matrix: the two sides of it."""

    test: str
    base: Runs
    patched: Runs

    @property
    def change(self) -> Change:
        """What became of it."""
        return change_between(self.base, self.patched)

    @property
    def to_be_run_again(self) -> bool:
        """Whether another run on both kernels could say more."""
        return self.change is Change.UNSURE or self.base.lost or self.patched.lost

    @property
    def known(self) -> Outcome:
        """An outcome of it, for what is the same in all: rows, machine."""
        return (self.patched.outcomes or self.base.outcomes)[0]

    @property
    def reason(self) -> str:
        """Why it was not run, or failed, in its own words."""
        if self.change is Change.NOT_RUN:
            silent = self.base if self.patched.counted else self.patched
            return silent.outcomes[-1].message if silent.outcomes else ""
        worse = self.patched.failure or self.base.failure
        return worse.message if worse else ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All tests of two kernels, in the order in which they were run."""

    tests: tuple[Compared, ...]

    def of(self, *changes: Change) -> list[Compared]:
        """Return the tests to which one of these happened."""
        return [test for test in self.tests if test.change in changes]

    @property
    def counts(self) -> dict[Change, int]:
        """How many tests met each change, the worst first; no zeros."""
        found = Counter(test.change for test in self.tests)
        return {change: found[change] for change in Change if found[change]}

    @property
    def failing_on_both(self) -> list[Compared]:
        """The tests that fail on the base as well."""
        return [test for test in self.of(Change.SAME) if test.base.failed]

    @property
    def verdict(self) -> Verdict:
        """What the comparison says about the patched kernel, against the base.

        A pass is that every test that the base has run was run again and nothing got worse.
        """
        if self.of(Change.BROKEN):
            return Verdict.KERNEL_FAILURE
        unknown = any(test.base.lost or test.patched.lost for test in self.tests)
        if unknown or self.of(Change.UNSURE):
            return Verdict.HARNESS_FAILURE
        compared = any(test.base.counted and test.patched.counted for test in self.tests)
        left_out = any(test.base.counted and not test.patched.counted for test in self.tests)
        return Verdict.PASS if compared and not left_out else Verdict.MISSING_REQUIREMENT


def compare(base: Iterable[Outcome], patched: Iterable[Outcome]) -> Comparison:
    """Compare what the tests said on two kernels.

    :param base: the outcomes of every run on the base; a test that was run again is there again.
    :param patched: the same for the patched kernel.
    """
    on_base, on_patched = _by_test(base), _by_test(patched)
    return Comparison(
        tuple(
            Compared(test, Runs(on_base.get(test, ())), Runs(on_patched.get(test, ())))
            for test in dict.fromkeys([*on_patched, *on_base])
        )
    )


def change_between(base: Runs, patched: Runs) -> Change:
    """Return what became of a test whose runs on two kernels these are."""
    if not patched.counted or base.lost:
        return Change.NOT_RUN
    if not base.counted:
        return Change.NEW
    both = (base, patched)
    if not any(side.failed for side in both) or not any(side.passed for side in both):
        return Change.SAME
    if base.failed and (base.passed or patched.failed):
        return Change.FLAKY  # one failure on the base acquits the patch
    if chance_of_split(base, patched) < CERTAIN:
        return Change.BROKEN if base.passed else Change.FIXED
    return Change.FLAKY if min(side.counted for side in both) >= MOST else Change.UNSURE


def chance_of_split(base: Runs, patched: Runs) -> float:
    """Return how likely the failures would fall on the two kernels as unevenly if both were alike.

    Of a kernel that never fails and one that does, as they are told apart here, that is the share
    of the ways to deal out the failures that give all of them to the one (Fisher's exact test).
    """
    failed = base.failed + patched.failed
    runs = base.counted + patched.counted
    more, fewer = (patched, base) if patched.failed > base.failed else (base, patched)
    ways = sum(
        comb(more.counted, some) * comb(fewer.counted, failed - some)
        for some in range(more.failed, min(more.counted, failed) + 1)
    )
    return ways / comb(runs, failed)


def _by_test(outcomes: Iterable[Outcome]) -> dict[str, tuple[Outcome, ...]]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.test, []).append(outcome)
    return {test: tuple(runs) for test, runs in found.items()}


def still_to_run(comparison: Comparison, number: int) -> list[Compared]:
    """Return the tests that are to be run again on both kernels, for the ``number``-th time.

    Few at a time: a kernel that does nothing right fails everything, and a part of it shows that.
    """
    if len(comparison.of(Change.BROKEN)) >= ENOUGH:
        return []
    wanted = [test for test in comparison.tests if test.to_be_run_again]
    if number > AGAIN:  # the harness loses it every time
        wanted = [test for test in wanted if test.change is Change.UNSURE]
    return wanted[:ENOUGH]
