"""Runs of tests side by side, of which a worker is lost."""

from __future__ import annotations

import pytest

from harness.errors import Verdict
from harness.report.run_store import kept_runs

SINGLE = """
import os, pytest

@pytest.mark.parametrize("n", range(6))
def test_x(n):
    if n == {dies}:
        os.kill(os.getpid(), 9)
"""
GROUPS = """
import os, pytest

@pytest.mark.parametrize(
    "n", [pytest.param(n, marks=pytest.mark.xdist_group(f"group-{{n % 2}}")) for n in range(6)]
)
def test_x(n):
    if n == {dies}:
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(
    ("workers", "text", "dies"),
    [(2, SINGLE, 4), (1, GROUPS, 0), (2, GROUPS, 5)],
    ids=["single tests", "a group, on one worker", "the last of a group"],
)
def test_the_loss_of_a_worker_loses_one_test(
    pytester: pytest.Pytester, workers: int, text: str, dies: int
) -> None:
    pytester.makepyfile(text.format(dies=dies))
    words = ("-n", str(workers), "--dist", "loadgroup", "-p", "no:cacheprovider")
    result = pytester.runpytest_subprocess(*words, "--results", "results", timeout=60)
    result.assert_outcomes(passed=5, failed=1)
    (run,) = kept_runs(pytester.path / "results")
    verdicts = {item.test: item.verdict for item in run.outcomes}
    assert len(verdicts) == 6
    (lost,) = (test for test, verdict in verdicts.items() if verdict is not Verdict.PASS)
    assert lost.endswith(f"[{dies}]")
    assert verdicts[lost] is Verdict.HARNESS_FAILURE
