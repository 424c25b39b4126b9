"""The record of a test run: the reports of all workers, joined to an outcome a test."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from harness.errors import HarnessError, Verdict
from harness.host.slowdown import stretch_timeouts
from harness.host.workspace import directory_lock
from harness.report.outcome import Outcome, write_outcomes
from harness.report.verdict import graver

MACHINES: Final = "machines"
"""Below the results: what each machine leaves while it runs."""
FAILED: Final = "failed"
"""Below the results: the evidence of each failed test."""


def plain_nodeid(nodeid: str) -> str:
    """Return the name of a test as pytest takes it: without the group that xdist puts behind it."""
    return re.sub(r"@[^\]/]*$", "", nodeid)


class Record:
    """Collects the reports of all workers, and writes the record of the run."""

    def __init__(self, directory: Path, workers: int):
        self._directory = directory
        self._workers = workers
        self._stretched = 1.0
        self._outcomes: dict[str, Outcome] = {}
        self._held = contextlib.ExitStack()

    def pytest_sessionstart(self) -> None:
        """Take the results directory for this run, and empty it of the last one's evidence."""
        try:
            self._held.enter_context(directory_lock(self._directory))
            self._stretched = stretch_timeouts(self._workers)
        except HarnessError as error:
            pytest.exit(str(error), returncode=error.verdict.exit_status)
        for name in (MACHINES, FAILED):
            shutil.rmtree(self._directory / name, ignore_errors=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Join the phases of a test."""
        properties: dict[str, Any] = dict(report.user_properties)
        verdict = Verdict(properties.pop("verdict", Verdict.HARNESS_FAILURE))
        rows = tuple(properties.pop("rows", "").split())
        name = plain_nodeid(report.nodeid)
        known = self._outcomes.get(name)
        message = ""
        if verdict is not Verdict.PASS and report.longrepr is not None:
            message = str(report.longrepr).strip().rpartition("\n")[2]
        self._outcomes[name] = Outcome(
            test=name,
            verdict=graver(verdict, known.verdict) if known else verdict,
            rows=rows,
            kernel=properties.get("kernel", known.kernel if known else ""),
            machine=properties.get("machine", known.machine if known else ""),
            seconds=report.duration + (known.seconds if known else 0.0),
            message=message or (known.message if known else ""),
            provenance=properties or (known.provenance if known else {}),
        )

    def pytest_sessionfinish(self) -> None:
        """Write the record."""
        if self._outcomes:
            write_outcomes(self._directory, self._outcomes.values())
        self._held.close()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say how many tests came to each verdict."""
        counts = dict.fromkeys(Verdict, 0)
        for outcome in self._outcomes.values():
            counts[outcome.verdict] += 1
        said = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items() if count)
        if said:
            terminalreporter.write_line(
                f"imsh: {said}; record in {self._directory}; "
                f"time-outs stretched by {self._stretched:.1f}"
            )
