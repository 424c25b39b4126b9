"""The record of a test run: the reports of all workers, joined to an outcome a test."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any, Final

import pytest

from harness.errors import HarnessError, Verdict
from harness.host.slowdown import stretch_timeouts
from harness.report.capabilities import judge_capabilities
from harness.report.outcome import Outcome
from harness.report.run_store import Head, RunWriter, kept_runs, new_run, remove_old
from harness.report.verdict import graver

RUNS_KEPT: Final = 40
BYTES_KEPT: Final = 2 << 30
"""What is kept of older runs; see :func:`~harness.report.run_store.remove_old`."""

ERROR_CHARACTERS: Final = 4000
"""What is kept of an error, which may show all that was compared."""

_LAST_PHASES: Final = {"teardown", "???"}
"""When a test is done; xdist reports one that its worker died of with question marks."""


def plain_nodeid(nodeid: str) -> str:
    """Return the name of a test as pytest takes it: without the group that xdist puts behind it."""
    return re.sub(r"@[^\]/]*$", "", nodeid)


def _raised(report: pytest.TestReport) -> str:
    """Return what a failed phase has raised, as that says itself."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message)[:ERROR_CHARACTERS] if report.failed and crash else ""


class Record:
    """Collects the reports of all workers, and keeps the outcome of each test as it is known."""

    def __init__(self, results: Path, head: Head):
        self._results = results
        self._head = head
        self._stretched = 1.0
        self._going_on: dict[str, Outcome] = {}
        self._run: RunWriter
        self._held = contextlib.ExitStack()

    @property
    def directory(self) -> Path:
        """The run's own directory."""
        return self._run.directory

    @pytest.hookimpl(tryfirst=True)  # the workers are told where it is
    def pytest_sessionstart(self) -> None:
        """Take a directory for this run."""
        try:
            self._stretched = stretch_timeouts(self._head.workers)
            self._run = self._held.enter_context(new_run(self._results, self._head))
        except HarnessError as error:
            pytest.exit(str(error), returncode=error.verdict.exit_status)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Join the phases of a test; keep it when it is done."""
        properties = {name: str(value) for name, value in report.user_properties}
        verdict = Verdict(properties.pop("verdict", Verdict.HARNESS_FAILURE))
        rows, cells = (tuple(properties.pop(name, "").split()) for name in ("rows", "cells"))
        name = plain_nodeid(report.nodeid)
        known = self._going_on.pop(name, None)
        message = ""
        if verdict is not Verdict.PASS and report.longrepr is not None:
            message = str(report.longrepr).strip().rpartition("\n")[2]
            if report.skipped and isinstance(report.longrepr, tuple):
                message = report.longrepr[2]
        outcome = Outcome(
            test=name,
            verdict=graver(verdict, known.verdict) if known else verdict,
            rows=rows or (known.rows if known else ()),
            kernel=properties.get("kernel", known.kernel if known else ""),
            machine=properties.get("machine", known.machine if known else ""),
            cells=cells or (known.cells if known else ()),
            seconds=report.duration + (known.seconds if known else 0.0),
            message=message or (known.message if known else ""),
            error=_raised(report) or (known.error if known else ""),
            provenance=properties or (known.provenance if known else {}),
        )
        if report.when in _LAST_PHASES:
            self._run.add(outcome)
        else:
            self._going_on[name] = outcome

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """End the run, and remove old ones."""
        for outcome in self._going_on.values():  # interrupted
            self._run.add(outcome)
        self._run.end(whole=exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED))
        self._held.close()
        with contextlib.suppress(HarnessError, OSError):  # another run may remove them just now
            runs = kept_runs(self._results)
            held = {run for row in judge_capabilities(runs) for run in row.runs}
            remove_old(runs, keep=RUNS_KEPT, keep_bytes=BYTES_KEPT, held=held)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say how many tests came to each verdict."""
        if counts := self._run.verdicts:
            said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
            terminalreporter.write_line(
                f"imsh: {said}; record in {self.directory}; "
                f"time-outs stretched by {self._stretched:.1f}"
            )
