"""Seeds faults one at a time, and runs the tests that should see each.

The tests are run as they are at any time, with one option more (``pytest --fault NAME``): same
fixtures, same checks, same verdicts. The first red one ends a fault's run. It is then run without
the fault, once in a campaign: only what is green there was red because of the fault.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from harness.errors import HarnessError, Verdict
from harness.faults.fault import Fault
from harness.faults.score import Fate, Finding, judge
from harness.host.deadline import Deadline
from harness.host.process import run, tail_of_file
from harness.host.progress import Progress
from harness.host.resources import harness_version
from harness.report.outcome import Outcome
from harness.report.run_store import kept_runs

FAULT_RUNS: Final = Path("build/faults")
"""Where the runs with a fault are kept: they prove no row, so not among the others."""

TESTS: Final = Path("tests/guest")
"""Where the tests are that a fault names, below the current directory."""

RUN_SECONDS: Final = 900.0
"""Bound of the tests of one fault."""

_WITHOUT: Final = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
"""Plugins that a few tests of one fault need not wait for: Hypothesis's takes half of the start."""

_NO_TESTS: Final = 5
"""pytest's exit status when no test was left (ExitCode.NO_TESTS_COLLECTED)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What is seeded, where, and where the results go."""

    faults: Sequence[Fault]
    kernels: Sequence[str]
    progress: Progress
    directory: Path = FAULT_RUNS
    tests: Path = TESTS
    resume: bool = False
    """Take over what is kept in ``directory`` of runs by this very harness."""
    _green: dict[tuple[str, str], bool] = dataclasses.field(default_factory=dict)
    """By kernel and test: whether it is green without a fault."""

    def findings(self) -> Iterator[Finding]:
        """Seed each fault into each kernel, and say what became of it as soon as that is known.

        :raises HarnessError: the tests could not be run.
        """
        for kernel in self.kernels:
            for fault in self.faults:
                with self.progress.step(f"{fault.name} on {kernel}"):
                    yield self._finding(fault, kernel)

    def _finding(self, fault: Fault, kernel: str) -> Finding:
        tests = [str(self.tests / test) for test in fault.tests]
        first = ["--first", ",".join(fault.rows), "--fault", fault.name]
        found = judge(fault, kernel, self._run(fault, kernel, [*first, *tests]))
        if found.fate not in (Fate.CAUGHT, Fate.ELSEWHERE):
            return found
        if (kernel, found.test) not in self._green:
            without = self._run(fault, kernel, [self._red(fault, found)], clean=True)
            verdicts = [outcome.verdict for outcome in without]
            self._green[kernel, found.test] = verdicts == [Verdict.PASS]
        if self._green[kernel, found.test]:
            return found
        return dataclasses.replace(found, fate=Fate.MISJUDGED, reason="red without it as well")

    def _red(self, fault: Fault, found: Finding) -> str:
        """Return the name of the red test as it is called from here, not from its rootdir."""
        file, _, test = found.test.partition("::")
        files = (named.partition("::")[0] for named in fault.tests)
        return f"{self.tests / next(named for named in files if file.endswith(named))}::{test}"

    def _run(
        self, fault: Fault, kernel: str, words: Sequence[str], *, clean: bool = False
    ) -> tuple[Outcome, ...]:
        """Return the outcomes of tests, of which the first red one was the last."""
        results = self.directory / f"{fault.name}-{kernel}{'-clean' if clean else ''}"
        if self.resume and (kept := _whole_run(results)):
            return kept
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir(parents=True)
        log = results / "pytest.log"
        options = ["-x", *_WITHOUT, "--kernel", kernel, "--machine", fault.machine]
        argv = [sys.executable, "-m", "pytest", *options, "--results", str(results), *words]
        deadline = Deadline(RUN_SECONDS, f"the tests of {fault.name} on {kernel}")
        completed = run(argv, deadline=deadline, log=log, check=False)
        if runs := kept_runs(results):
            return runs[0].outcomes
        if completed.returncode == _NO_TESTS:
            return ()
        raise HarnessError(
            f"pytest ended with {completed.returncode} and ran no test of {fault.name}",
            evidence=tail_of_file(log),
        )


def _whole_run(results: Path) -> tuple[Outcome, ...]:
    """Return the outcomes of a run that came to its end by this harness, none: there is none.

    A checkout that was changed since its commit may have changed again.
    """
    version = harness_version()
    for kept in kept_runs(results):
        if kept.head.ended and kept.head.imsh == version and not version.endswith("-dirty)"):
            return kept.outcomes
    return ()
