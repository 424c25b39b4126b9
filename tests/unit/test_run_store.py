"""Runs that are kept: side by side, cut short, and removed when there are too many."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.errors import ConfigError, Verdict
from harness.host.deadline import Deadline, wait_until
from harness.host.process import run, running
from harness.report.outcome import Outcome
from harness.report.run_store import Run, describe_run, kept_runs, new_run, remove_old

TESTS = """
import os, time
import pytest

@pytest.mark.parametrize("n", range(3))
def test_x(n):
    if n == 2 and os.environ.get("STALL"):
        time.sleep(60)
"""
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--results", "results")


def keep(results: Path, number: int, *, kernel: str = "", size: int = 0) -> Run:
    head = describe_run(["pytest"], results, matrix="default", workers=1, whole=False)
    object.__setattr__(head, "run", f"{number:04}")
    with new_run(results, head) as writer:
        writer.add(Outcome("test_x", Verdict.PASS, kernel=kernel))
        (writer.directory / "failed").mkdir()
        (writer.directory / "failed" / "log").write_bytes(os.urandom(size))
        writer.end(whole=True)
    return kept_runs(results)[0]


def names(runs: list[Run]) -> list[str]:
    return [run.head.run for run in runs]


def test_a_run_keeps_what_it_was_and_what_each_test_said(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    run([*PYTEST, "-k", "not 1", "."], deadline=Deadline(60, "tests"), cwd=tmp_path)
    (kept,) = kept_runs(tmp_path / "results")
    assert kept.state == "ended"
    assert [item.test for item in kept.outcomes] == [
        "test_it.py::test_x[0]",
        "test_it.py::test_x[2]",
    ]
    assert kept.verdicts == {"pass": 2}
    assert kept.head.argv[-3:] == ("-k", "not 1", ".")
    assert kept.head.directory == str(tmp_path)
    assert "imsh" in kept.head.imsh or kept.head.imsh[0].isdigit()
    assert not kept.head.whole


def test_two_runs_in_one_directory_go_on_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    stalling = ["env", "STALL=1", *PYTEST, "."]
    with running(stalling, name="first", log=tmp_path / "log", cwd=tmp_path) as first:
        wait_until(
            lambda: any(len(run.outcomes) == 2 for run in kept_runs(tmp_path / "results")),
            Deadline(60, "two results of the first run"),
        )
        run([*PYTEST, "."], deadline=Deadline(60, "the second run"), cwd=tmp_path)
        second, stalled = kept_runs(tmp_path / "results")
        assert (second.state, second.verdicts) == ("ended", {"pass": 3})
        assert stalled.state == "going on"
        os.kill(first.pid, signal.SIGKILL)
        first.wait(Deadline(20, "its end"))
    (stalled,) = (run for run in kept_runs(tmp_path / "results") if not run.head.ended)
    assert (stalled.state, stalled.verdicts) == ("cut short", {"pass": 2})


def test_half_a_line_at_the_end_is_left_out_and_named(tmp_path: Path) -> None:
    kept = keep(tmp_path, 1)
    with (kept.directory / "results.jsonl").open("a") as results:
        results.write('{"test": "hal')
    (kept,) = kept_runs(tmp_path)
    assert kept.verdicts == {"pass": 1}
    assert kept.results[1] == f"{kept.directory}/results.jsonl:2: half a line, left out"


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    kept = keep(tmp_path, 1)
    with (kept.directory / "results.jsonl").open("a") as results:
        results.write('{"test": "hal\n')
    with pytest.raises(ConfigError, match=r"results\.jsonl:2"):
        _ = kept_runs(tmp_path)[0].outcomes


def test_a_run_without_a_result_is_not_kept(tmp_path: Path) -> None:
    run([*PYTEST, "."], deadline=Deadline(60, "no test"), cwd=tmp_path, check=False)
    assert list((tmp_path / "results" / "runs").iterdir()) == []


# Retention.


def test_the_oldest_runs_are_removed_when_there_are_too_many(tmp_path: Path) -> None:
    for number in range(5):
        keep(tmp_path, number)
    remove_old(kept_runs(tmp_path), keep=2, keep_bytes=1 << 30, held=())
    assert names(kept_runs(tmp_path)) == ["0004", "0003"]


def test_the_oldest_runs_are_removed_when_they_are_too_large(tmp_path: Path) -> None:
    for number in range(4):
        keep(tmp_path, number, size=1 << 20)
    remove_old(kept_runs(tmp_path), keep=99, keep_bytes=5 << 19, held=())
    assert names(kept_runs(tmp_path)) == ["0003", "0002"]


def test_the_newest_run_with_a_guest_and_what_is_held_stay(tmp_path: Path) -> None:
    for number in range(6):
        keep(tmp_path, number, kernel="k" if number in (1, 2) else "")
    remove_old(kept_runs(tmp_path), keep=1, keep_bytes=0, held=["0000"])
    assert names(kept_runs(tmp_path)) == ["0002", "0000"]


def test_a_run_that_goes_on_is_not_removed(tmp_path: Path) -> None:
    head = describe_run(["pytest"], tmp_path, matrix="default", workers=1, whole=False)
    with new_run(tmp_path, head):
        keep(tmp_path, 9999_9999)
        remove_old(kept_runs(tmp_path), keep=0, keep_bytes=0, held=())
        assert names(kept_runs(tmp_path)) == [head.run]


# The verbs.


def test_the_list_of_runs_says_what_each_came_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, 1)
    kept = keep(tmp_path, 2, kernel="k")
    with (kept.directory / "results.jsonl").open("a") as results:
        results.write("{")
    assert main(["runs", "--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("0002  ended, matrix default")
    assert lines[0].endswith(": 1 pass")
    assert "half a line" in lines[2]
    assert lines[3].startswith("0001  ended, no guest")
    assert main(["runs", "--json", "--results", str(tmp_path)]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["run"], first["guest"], first["verdicts"]) == ("0002", True, {"pass": 1})
    assert (second["run"], second["guest"], second["torn"]) == ("0001", False, "")


def test_the_table_says_which_runs_it_is_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = describe_run(["pytest"], tmp_path, matrix="default", workers=1, whole=False)
    with new_run(tmp_path, head) as writer:
        writer.add(Outcome("t.py::test_x[k-m]", Verdict.PASS, ("A6",), "k", "m", ("k-m", "k-n")))
        writer.end(whole=True)
    assert main(["capabilities", "--results", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "A6  partly    MSI-X and IMS in use on one device at once" in shown
    assert "missing: not run on k-n" in shown
    assert f"from the runs:\n    {head.run}  ended, matrix default" in shown
