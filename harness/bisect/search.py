# Ref: syzkaller docs/syzbot.md, "Bisection" (a failure that is not certain is looked for 10 times)
"""Which commit made tests fail: the two ends, then the commits that git bisect asks for, then the
culprit and its parents again.

A failure that is there every time is looked for once in each commit. Of one that comes and goes,
the share of runs that show it says how many passes a commit needs to count as good, and how sure
the result is. What is known already is not run again, so a search that was interrupted goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from harness.bisect.history import History, Mark
from harness.bisect.tries import Journal, Tried
from harness.errors import ConfigError
from harness.host.progress import Progress

AGAIN: Final = 3
"""How often the bad end, the culprit and its parents are tried when all tries say the same."""
MOST: Final = 10
"""How often a kernel is tried at most."""
DOUBT: Final = 0.05
"""The share of bad commits that may be taken for good ones because they happened to pass."""


class Laboratory(Protocol):
    """Where the kernels of commits are built, and tests run on them."""

    def build(self, commit: str) -> Tried:
        """Build a commit; return its image, or why it does not build, and no outcome."""

    def run(self, commit: str, tests: Sequence[str]) -> Tried:
        """Run tests on the kernel of a commit.

        :param tests: by name; none: those that the user has asked for.
        :raises HarnessError: the harness or the host failed: nothing is known about the commit.
        """


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a kernel that has the fault showed it."""

    failed: int
    runs: int

    @property
    def estimate(self) -> float:
        """The chance that the next run shows it (Laplace's rule of succession)."""
        return (self.failed + 1) / (self.runs + 2)

    @property
    def passes_needed(self) -> int:
        """How many runs have to pass before a kernel counts as one without the fault."""
        if self.failed == self.runs:
            return 1
        return min(MOST, math.ceil(math.log(DOUBT) / math.log(1 - self.estimate)))

    def sureness(self, passes: int) -> float:
        """Return the chance that a kernel with the fault would not have passed so often."""
        return 1 - (1 - self.estimate) ** passes

    def __str__(self) -> str:
        return f"{self.failed} of {self.runs}"


@dataclass(frozen=True, slots=True)
class Sought:
    """The failure that is looked for."""

    tests: tuple[str, ...]
    """One of them fails."""
    boots: bool
    """Whether the guest came up where they failed; if not, that is what is looked for."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to."""

    candidates: tuple[str, ...]
    """The culprit; or several, when those between cannot be tested. The newest is the first."""
    sought: Sought
    sure: float
    """How sure it is that the culprit's parents do not have the fault; 0 when they were not
    tried, or when there is no one culprit."""
    marks: dict[str, Mark]
    """What each commit that was looked at is, in this order."""


class Search:
    """A bisection: see :meth:`run`."""

    def __init__(
        self, history: History, laboratory: Laboratory, journal: Journal, progress: Progress
    ):
        self._history = history
        self._laboratory = laboratory
        self._journal = journal
        self._progress = progress
        self._images: dict[str, str] = {}
        self._sought = Sought((), boots=True)

    def run(self, good: str, bad: str) -> Found:
        """Find the commit between two that made tests fail.

        :raises ConfigError: the ends are not what they are said to be, or cannot be tested.
        :raises HarnessError: the harness or the host failed.
        """
        with self._progress.step(f"the bad end, {bad[:12]}"):
            self._look_at_bad_end(bad)
        with self._progress.step(f"the good end, {good[:12]}"):
            self._look_at_good_end(good, bad)
        while True:
            marks = {bad: Mark.BAD, good: Mark.GOOD, **self._halve()}
            candidates = self._history.candidates
            if len(candidates) > 1:
                return Found(tuple(candidates), self._sought, 0.0, marks)
            parents = self._history.parents(candidates[0])
            with self._progress.step(f"once more {candidates[0][:12]} and what it is based on"):
                passes = min(self._confirm(candidates[0], parent) for parent in parents)
            # A parent that fails after all was taken for a good one: what is known now goes deeper.
            if not any(self._is_bad(parent) for parent in parents):
                sure = self.rate.sureness(passes)
                return Found((candidates[0],), self._sought, sure, marks)

    @property
    def rate(self) -> Rate:
        """How often kernels that have the fault showed it."""
        tries = [item for item in self._journal.tries if self._is_bad(item.commit)]
        shown = self._shown(tries)
        return Rate(shown.count(True), shown.count(True) + shown.count(False))

    def record(self, commit: str) -> tuple[Rate, str]:
        """Return how often a commit has failed, and what else there is to say of it."""
        tries = self._known(commit)
        shown = self._shown(tries)
        unbuilt = next((item.unbuilt for item in tries if item.unbuilt), "")
        others = {item.commit for item in tries} - {commit}
        note = f"same kernel as {min(others)[:12]}" if others else ""
        if unbuilt or None in shown:
            note = f"does not build: {unbuilt}" if unbuilt else "cannot be tested"
        return Rate(shown.count(True), shown.count(True) + shown.count(False)), note

    def failure(self, commit: str) -> Tried | None:
        """Return a run in which a commit failed."""
        found = (item for item in self._known(commit) if self._shown([item]) == [True])
        return next(found, None)

    def _look_at_bad_end(self, bad: str) -> None:
        tries = self._known(bad)
        while not _tells_enough(tries):
            _check_built(tries, "bad")
            tries.append(self._run(bad))
        failing = frozenset[str]().union(*(item.failing for item in tries))
        unbooted = frozenset[str]().union(*(item.unbooted for item in tries))
        if not failing:
            said = next((item.message for item in tries[0].outcomes if item.message), "")
            raise ConfigError(
                f"none of the tests fails at the bad end, in {len(tries)} runs",
                hint="name another bad end, or tests that fail there",
                evidence=said or None,
            )
        boots = bool(failing - unbooted)
        self._sought = Sought(tuple(sorted(failing - unbooted if boots else failing)), boots)

    def _look_at_good_end(self, good: str, bad: str) -> None:
        tries = self._known(good)
        if self._image(good) == self._image(bad) != "":
            raise ConfigError(
                "the good and the bad end have the same kernel, bit for bit",
                hint="what fails at one of them and not at the other is not the tree's doing",
            )
        while True:
            _check_built(tries, "good")
            failing = frozenset[str]().union(*(item.failing for item in tries))
            left = tuple(test for test in self._sought.tests if test not in failing)
            if not left:
                raise ConfigError(
                    "what fails at the bad end fails at the good end, too",
                    evidence="\n".join(self._sought.tests[:AGAIN]),
                    hint="name an older good end",
                )
            self._sought = Sought(left, self._sought.boots)
            shown = self._shown(tries)
            if None in shown:
                raise ConfigError("the good end cannot be tested: see the evidence of its run",
                                  evidence=tries[0].directory)  # fmt: skip
            if len(shown) >= self.rate.passes_needed:
                return
            tries.append(self._run(good))

    def _halve(self) -> dict[str, Mark]:
        """Let git bisect ask, until it knows as much as it can; return what it was told."""
        marks = {}
        self._history.start()
        while commit := self._history.next:
            left = f"{self._history.steps_left} of {self._history.length} commits to look at"
            subject = self._history.subject(commit)
            with self._progress.step(f"about {left}, now {commit[:12]} {subject!r}"):
                marks[commit] = self._judge(commit)
            self._history.mark(commit, marks[commit])
        return marks

    def _judge(self, commit: str) -> Mark:
        tries = self._known(commit)
        while True:
            shown = self._shown(tries)
            if True in shown:
                return Mark.BAD
            if None in shown:
                return Mark.SKIP
            if len(shown) >= self.rate.passes_needed:
                return Mark.GOOD
            tries.append(self._run(commit, self._sought.tests))

    def _confirm(self, culprit: str, parent: str) -> int:
        """Try a culprit and a parent of it again; return how often the parent has passed."""
        for commit, enough in ((culprit, AGAIN), (parent, max(AGAIN, self.rate.passes_needed))):
            tries = self._known(commit)
            while len(tries) < enough and None not in self._shown(tries):
                tries.append(self._run(commit, self._sought.tests))
        return self._shown(self._known(parent)).count(False)

    def _known(self, commit: str) -> list[Tried]:
        """Return the tries of a commit's kernel, after building it if need be."""
        self._image(commit)
        return self._journal.of(commit, self._images.get(commit, ""))

    def _image(self, commit: str) -> str:
        if commit not in self._images:
            if not (image := self._journal.image_of(commit)) and not self._journal.of(commit):
                built = self._laboratory.build(commit)
                if built.unbuilt:
                    self._journal.add(built)
                image = built.image
            self._images[commit] = image
        return self._images[commit]

    def _run(self, commit: str, tests: Sequence[str] = ()) -> Tried:
        tried = self._laboratory.run(commit, tests)
        self._journal.add(tried)
        return tried

    def _is_bad(self, commit: str) -> bool:
        return True in self._shown(self._journal.of(commit, self._images.get(commit, "")))

    def _shown(self, tries: Sequence[Tried]) -> list[bool | None]:
        return [item.shows(self._sought.tests, boots=self._sought.boots) for item in tries]


def _tells_enough(tries: Sequence[Tried]) -> bool:
    """Whether the tries of the bad end say what fails there, and how often."""
    always = frozenset[str].intersection(*(item.failing for item in tries)) if tries else ()
    return len(tries) >= (AGAIN if always else MOST)


def _check_built(tries: Sequence[Tried], end: str) -> None:
    for item in tries:
        if item.unbuilt:
            raise ConfigError(
                f"the {end} end does not build", evidence=item.unbuilt, hint=f"name another {end}"
            )
