"""One kernel, tried: provided, and the tests run on it by pytest, in a process of its own.

The tests are run as they are at any time: same fixtures, same checks, same verdicts. What they say
is in a run store as it comes, so that whoever waits can look, and nothing is lost with a process.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import harness
from harness.build.kernel import KernelRecipe
from harness.build.provision import Guest, Provisioner
from harness.build.tree import TreeState
from harness.errors import HarnessError, MissingRequirement
from harness.host.deadline import Deadline
from harness.host.process import Process, running, tail_of_file
from harness.report.outcome import Outcome
from harness.report.run_store import kept_runs
from harness.testbed.trees import STATES_VARIABLE, states_text, tree_words

TESTS: Final = "tests/guest"
"""Where the tests are that have a guest, below the directory that they are run from."""

_OUTCOMES_ARE_WHOLE: Final = (0, 1)
"""pytest's exit statuses of a run that came to its end (ExitCode.OK, TESTS_FAILED)."""
_NO_TESTS: Final = 5
"""Its status when no test was left (ExitCode.NO_TESTS_COLLECTED)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A kernel that is tried."""

    recipe: KernelRecipe
    state: TreeState | None = None
    """The state of the recipe's tree; None for a kernel that has no tree."""
    words: tuple[str, ...] = ()
    """More words for pytest that belong to this kernel only."""

    def provide(self, provisioner: Provisioner) -> Guest:
        """Return what a machine boots, after building it if need be.

        :raises CompileError: this state of the tree does not build.
        """
        provisioner.states.update(self._states)
        return provisioner.guest(self.recipe)

    @property
    def version(self) -> str:
        """What a reader calls it."""
        return self.state.version if self.state else self.recipe.name

    @property
    def options(self) -> list[str]:
        """The words for pytest that choose this kernel."""
        return [*(tree_words(self.recipe) or ("--kernel", self.recipe.name)), *self.words]

    @property
    def environment(self) -> dict[str, str]:
        """What a process is told by, so that it looks at this state and not at today's."""
        return {STATES_VARIABLE: states_text(self._states)}

    @property
    def _states(self) -> Mapping[str, TreeState]:
        return {self.recipe.name: self.state} if self.state else {}


class Trial:
    """Tests that run on one kernel. Made by :func:`running_tests`."""

    def __init__(self, process: Process, results: Path):
        self._process = process
        self._results = results

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What the tests have said so far."""
        return kept_outcomes(self._results)

    def wait(self, deadline: Deadline) -> tuple[Outcome, ...]:
        """Wait for the end of the run, and return what the tests said; nothing when none was left.

        :raises HarnessError: pytest did not come to the end of its run.
        :raises DeadlineExpired: it still runs.
        """
        status = self._process.wait(deadline)
        if status == _NO_TESTS:
            return ()
        if status not in _OUTCOMES_ARE_WHOLE:
            raise HarnessError(
                f"pytest ended with {status} before the end of its run",
                evidence=tail_of_file(self._process.log),
                hint=f"the whole log: {self._process.log}; the results so far: {self._results}",
            )
        return self.outcomes


@contextlib.contextmanager
def running_tests(
    subject: Subject, words: Sequence[str], results: Path, *, workers: int = 1
) -> Iterator[Trial]:
    """Hold tests that run on a kernel; they are ended at exit.

    :param words: what pytest is told: tests by the names that it gave them, ``--matrix``, ``-k``.
    :param results: the run store, a directory of this trial's own.
    :raises MissingRequirement: the tests are nowhere.
    """
    results.mkdir(parents=True, exist_ok=True)
    # Groups stay on one worker, and the tests in the order that they were asked for.
    spread = ["-n", str(workers), "--dist", "loadgroup", "--no-loadscope-reorder"]
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    # In one word: pytest would take a path of its own for a sign of which project it is in.
    argv += [f"--results={results.absolute()}", *(spread if workers > 1 else [])]
    with running(
        [*argv, *subject.options, *words],
        name="pytest",
        log=results / "pytest.log",
        cwd=directory_of_tests(),
        env=subject.environment,
    ) as process:
        yield Trial(process, results)


def run_tests(
    subject: Subject, words: Sequence[str], results: Path, deadline: Deadline, *, workers: int = 1
) -> tuple[Outcome, ...]:
    """Run tests on a kernel to the end, and return what they said.

    Parameters and errors are those of :func:`running_tests` and :meth:`Trial.wait`.
    """
    with running_tests(subject, words, results, workers=workers) as trial:
        return trial.wait(deadline)


def kept_outcomes(results: Path) -> tuple[Outcome, ...]:
    """Return what the tests of a trial have said, be it going on, ended or cut short."""
    return runs[0].outcomes if (runs := kept_runs(results)) else ()


def directory_of_tests() -> Path:
    """Return where pytest is started: the current directory, or else the harness's own checkout.

    :raises MissingRequirement: neither has the tests.
    """
    for directory in (Path.cwd(), Path(str(harness.__file__)).parent.parent):
        if (directory / TESTS).is_dir():
            return directory
    raise MissingRequirement(
        f"there are no tests: no {TESTS} here",
        hint="an installed imsh has none: run it in a checkout of imsh, or from it (make venv)",
    )
