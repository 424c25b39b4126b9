"""`imsh run --git-bisect`: what `git bisect run` is told."""

from __future__ import annotations

import pytest

from harness.cli.main import main
from harness.cli.run import bisect_status
from harness.errors import Verdict


@pytest.mark.parametrize(
    ("verdict", "answered", "status"),
    [
        (Verdict.PASS, True, 0),
        (Verdict.KERNEL_FAILURE, True, 1),
        (Verdict.TIME_OUT, True, 1),
        (Verdict.KERNEL_FAILURE, False, 125),
        (Verdict.TIME_OUT, False, 125),
        (Verdict.HARNESS_FAILURE, True, 128),
        (Verdict.MISSING_REQUIREMENT, False, 128),
    ],
)
def test_git_bisect_run_gets_the_statuses_that_git_means(
    verdict: Verdict, answered: bool, status: int
) -> None:
    assert bisect_status(verdict, answered) == status


def test_a_fault_before_the_build_ends_git_bisect_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--tree", "/nowhere", "--git-bisect"]) == 128
    assert "there is no directory /nowhere" in capsys.readouterr().err
    assert main(["run", "--tree", "/nowhere"]) == 64
