"""Outcomes and the capability table that is judged from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ConfigError, Verdict
from harness.report.capabilities import Status, capability_titles, judge_capabilities
from harness.report.outcome import LAST_RUN, Outcome, read_outcomes, write_outcomes


def outcome(verdict: Verdict, *, kernel: str = "debian-6.12", row: str = "A1") -> Outcome:
    return Outcome(f"test_x[{kernel}]", verdict, (row,), kernel, "caching", 0.5)


def status(*outcomes: Outcome) -> Status:
    return {item.id: item for item in judge_capabilities(outcomes)}["A1"].status


def test_a_row_without_a_test_is_untested() -> None:
    assert status() is Status.UNTESTED
    assert status(outcome(Verdict.MISSING_REQUIREMENT)) is Status.UNTESTED


def test_a_row_is_proved_by_passing_tests_only() -> None:
    assert status(outcome(Verdict.PASS)) is Status.PROVED


@pytest.mark.parametrize(
    "verdict", [Verdict.KERNEL_FAILURE, Verdict.HARNESS_FAILURE, Verdict.TIME_OUT]
)
def test_one_test_that_did_not_pass_makes_the_row_fail(verdict: Verdict) -> None:
    assert status(outcome(Verdict.PASS), outcome(verdict)) is Status.FAILING


def test_a_row_lists_the_kernels_on_which_it_passed() -> None:
    judged = judge_capabilities(
        [outcome(Verdict.PASS, kernel="a"), outcome(Verdict.TIME_OUT, kernel="b")]
    )
    assert judged[0].kernels == ("a",)
    assert judged[0].tests == ("test_x",)


def test_every_row_of_the_table_is_listed() -> None:
    assert [item.id for item in judge_capabilities([])] == list(capability_titles())
    assert len(capability_titles()) == 46


def test_outcomes_survive_the_file(tmp_path: Path) -> None:
    written = [outcome(Verdict.PASS), outcome(Verdict.TIME_OUT)]
    write_outcomes(tmp_path, written)
    assert list(read_outcomes(tmp_path)) == written


def test_a_damaged_record_is_named_with_its_line(tmp_path: Path) -> None:
    write_outcomes(tmp_path, [outcome(Verdict.PASS)])
    with (tmp_path / LAST_RUN).open("a") as record:
        record.write('{"test": "half')
    with pytest.raises(ConfigError, match=rf"{LAST_RUN}:2"):
        list(read_outcomes(tmp_path))
