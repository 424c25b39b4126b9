"""The test suite as a load: how long it takes, and what a test of it costs."""

from __future__ import annotations

import os
import resource
import sys
import time
from typing import Final

from harness.errors import HarnessError
from harness.host.deadline import Deadline
from harness.host.process import run
from harness.host.workspace import Workspace
from harness.report.run_store import kept_runs
from tests.bench.bench import Bench
from tests.bench.metrics import Summary

SECONDS: Final = 3600.0


def suite_s(bench: Bench) -> Summary:
    """Return the seconds that the suite takes on every guest kernel, once.

    :raises LaunchError: a test failed.
    """
    workspace = bench.workspace("suite")
    workers = len(os.sched_getaffinity(0))
    with bench.progress.step("the whole suite"):
        start = time.monotonic()
        _pytest(workspace, "-n", str(workers), "--dist", "loadgroup", "tests")
        return Summary.of([time.monotonic() - start])


def core_s_per_guest_test(bench: Bench) -> Summary:
    """Return the processor seconds for each guest test of one kernel, QEMU's included.

    Snapshots are made first, by a run that is not counted, of a test that needs little else.

    :raises LaunchError: a test failed.
    """
    kernel = ("--matrix", "quick", "--kernel", bench.kernel)
    with bench.progress.step("snapshots"):
        _pytest(bench.workspace("snapshots"), *kernel, "tests/guest/test_ims.py")
    workspace = bench.workspace("guest-tests")
    with bench.progress.step("the guest tests of one kernel"):
        before = _seconds_of_children()
        _pytest(workspace, *kernel, "tests/guest")
        spent = _seconds_of_children() - before
    (kept,) = kept_runs(workspace.directory)
    tests = sum(bool(outcome.kernel) for outcome in kept.outcomes)
    if not tests:
        raise HarnessError("no guest test ran")
    return Summary.of([spent / tests])


def _pytest(workspace: Workspace, *words: str) -> None:
    options = ["-p", "no:cacheprovider", "--results", str(workspace.directory)]
    run(
        [sys.executable, "-m", "pytest", *options, *words],
        deadline=Deadline(SECONDS, "the tests"),
        log=workspace.path("pytest.log"),
    )


def _seconds_of_children() -> float:
    """Return the processor time of every process that has ended and was waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
