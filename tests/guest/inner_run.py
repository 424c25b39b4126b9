"""Tests that are run in order to fail: a pytest of their own, on one kernel and machine."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.host.deadline import Deadline
from harness.host.process import run
from harness.report.outcome import Outcome
from harness.report.run_store import kept_runs

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class InnerRun:
    """What became of the tests of a file."""

    results: Path
    """The directory of its runs; the JUnit report is beside them."""
    printed: str

    def outcomes(self) -> dict[str, Outcome]:
        """Return each test's outcome by the name of its function."""
        (kept,) = kept_runs(self.results)
        return {item.function.partition("::")[2]: item for item in kept.outcomes}


def run_tests(directory: Path, text: str, *words: str) -> InnerRun:
    """Write a test file into an empty directory and run it there.

    :param words: further arguments; without them, stock 6.12 on the remapping-only machine.
    """
    (directory / "test_failing.py").write_text(text)
    command = [
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"),
        *(words or ("--kernel", "debian-6.12", "--machine", "remapping-only")),
        *("--rootdir", str(directory), "--results", "results", "--junit-xml", "results/junit.xml"),
        str(directory),
    ]
    # A worker's own environment would make the inner pytest believe that it is one, too; and what
    # the user has recipes of is no matter of a test's.
    inherited = [name for name in os.environ if name.startswith(("PYTEST_", "IMSH_RECIPES"))]
    env = ["env", *(f"--unset={name}" for name in inherited), f"PYTHONPATH={CHECKOUT}"]
    result = run(
        [*env, *command], deadline=Deadline(240, "the inner tests"), cwd=directory, check=False
    )
    return InnerRun(directory / "results", result.stdout)
