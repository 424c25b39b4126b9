"""The whole test suite, as `make test` runs it."""

from __future__ import annotations

import os
import sys
import time
from typing import Final

from harness.host.deadline import Deadline
from harness.host.process import run
from tests.bench.bench import Bench
from tests.bench.metrics import Summary

SECONDS: Final = 3600.0


def suite_s(bench: Bench) -> Summary:
    """Return the seconds that the suite takes on every guest kernel, once.

    :raises LaunchError: a test failed.
    """
    workspace = bench.workspace("suite")
    workers = len(os.sched_getaffinity(0))
    words = ["-n", str(workers), "--dist", "loadgroup", "-p", "no:cacheprovider"]
    with bench.progress.step("the whole suite"):
        start = time.monotonic()
        run(
            [
                sys.executable,
                "-m",
                "pytest",
                *words,
                "--results",
                str(workspace.directory),
                "tests",
            ],
            deadline=Deadline(SECONDS, "the test suite"),
            log=workspace.path("pytest.log"),
        )
        return Summary.of([time.monotonic() - start])
