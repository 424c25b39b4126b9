"""The base and the states of a patched tree, built, tested side by side, and compared.

    DIRECTORY/base/, patched/, patch-1/, ...   the run stores of the whole run on each kernel
    DIRECTORY/again-1/, ...                    of what was run again: base/ and the other's
    DIRECTORY/measured-1/, ...                 of the measured scenarios, in turn: base/, patched/

The driver only: what the runs mean is said by :mod:`harness.validate.comparison` and
:mod:`harness.validate.cost`, from these directories alone.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.build.kbuild import CompileError
from harness.build.provision import Provisioner
from harness.host.deadline import Deadline
from harness.host.progress import Progress
from harness.report.outcome import Outcome
from harness.validate.comparison import MOST, Comparison, compare, still_to_run
from harness.validate.cost import Cost, compare_costs
from harness.validate.trial import Subject, Trial, kept_outcomes, running_tests

BASE: Final = "base"
SECONDS: Final = 6 * 3600.0
"""Bound of one run of the tests."""
MEASURING: Final = "tests/guest/test_measurements.py"
"""The measured scenarios."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A state of the patched tree, to be held against the base."""

    name: str
    """Of its directory: ``patched``, ``patch-2``."""
    title: str
    """What a reader calls it: a patch's subject."""
    subject: Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What became of one state of the patched tree."""

    candidate: Candidate
    comparison: Comparison | None = None
    """None: it was not built."""
    error: str = ""
    """Why it was not built: what the compiler said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validator:
    """What is run, and where the results go."""

    provisioner: Provisioner
    progress: Progress
    directory: Path
    options: Sequence[str]
    """What pytest is told besides the kernel and the tests: ``--matrix``, ``--first``."""
    tests: Sequence[str]
    """The tests, and how they are chosen: ``tests/guest -k moved``."""
    workers: int
    rounds: int
    """How often each kernel is measured; 0: not at all."""

    def validate(self, base: Subject, candidates: Sequence[Candidate]) -> list[Tried]:
        """Build all, run the tests on all, and compare each candidate with the base.

        :raises CompileError: the base does not build.
        :raises HarnessError: the tests could not be run to their end.
        """
        base.provide(self.provisioner)
        errors = {item.name: self._build(item.subject) for item in candidates}
        built = {item.name: item.subject for item in candidates if not errors[item.name]}
        if built:
            self._run_all("the tests", {BASE: base, **built}, self.tests, self.directory)
            for name, subject in built.items():
                self._run_again(base, name, subject)
        return [
            Tried(candidate=item, error=errors[item.name])
            if errors[item.name]
            else Tried(candidate=item, comparison=self.comparison(item.name))
            for item in candidates
        ]

    def comparison(self, name: str) -> Comparison:
        """Return what is known of a candidate by now."""
        return compare(self._outcomes(BASE), self._outcomes(name))

    def measure(self, base: Subject, candidate: Candidate) -> list[Cost]:
        """Run the measured scenarios on both kernels in turn, and return what they cost.

        The errors are those of :meth:`validate`.
        """
        for number in range(1, self.rounds + 1):
            for name, subject in ((BASE, base), (candidate.name, candidate.subject)):
                what = f"measuring, round {number} of {self.rounds}: {name}"
                directory = self.directory / f"measured-{number}"
                self._run_side_by_side(what, {name: subject}, [MEASURING], directory)
        return compare_costs(self._outcomes(BASE), self._outcomes(candidate.name))

    def _build(self, subject: Subject) -> str:
        """Build a state of the patched tree; return why it cannot be, "" when it can."""
        try:
            subject.provide(self.provisioner)
        except CompileError as error:
            return str(error)
        return ""

    def _run_again(self, base: Subject, name: str, subject: Subject) -> None:
        """Run again on both kernels what differs, until it is clear or has been run enough."""
        for number in range(1, MOST):
            if not (tests := still_to_run(self.comparison(name), number)):
                return
            what = f"again, {number}: {len(tests)} test{'s' * (len(tests) > 1)}"
            names = [test.test for test in tests]
            directory = self.directory / f"again-{name}-{number}"
            self._run_all(what, {BASE: base, name: subject}, names, directory)

    def _run_all(
        self, what: str, subjects: dict[str, Subject], tests: Sequence[str], directory: Path
    ) -> None:
        """Run tests on some kernels, as many at a time as there are workers."""
        names = list(subjects)
        for start in range(0, len(names), self.workers):
            some = {name: subjects[name] for name in names[start : start + self.workers]}
            self._run_side_by_side(what, some, tests, directory)

    def _run_side_by_side(
        self, what: str, subjects: dict[str, Subject], tests: Sequence[str], directory: Path
    ) -> None:
        deadline = Deadline(SECONDS, what)
        with contextlib.ExitStack() as stack:
            trials = {
                name: stack.enter_context(
                    running_tests(
                        subject,
                        [*self.options, *tests],
                        directory / name,
                        workers=self.workers // len(subjects),
                    )
                )
                for name, subject in subjects.items()
            }
            stack.enter_context(self.progress.step(what, _state_of(trials)))
            for trial in trials.values():
                trial.wait(deadline)

    def _outcomes(self, name: str) -> list[Outcome]:
        """Return what every run on a kernel has said so far."""
        stores = sorted(self.directory.glob(f"*/{name}"))
        stores = [self.directory / name, *stores]
        return [outcome for store in stores for outcome in kept_outcomes(store)]


def _state_of(trials: dict[str, Trial]) -> Callable[[], str]:
    """Return what tells how far trials are, as a line."""

    def say(name: str, outcomes: Sequence[Outcome]) -> str:
        counts = Counter(outcome.verdict.value for outcome in outcomes)
        said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        return f"{name} {said or 'begins'}"

    return lambda: "; ".join(say(name, trial.outcomes) for name, trial in trials.items())
