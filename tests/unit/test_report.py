"""The capability table that is judged from runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import Verdict
from harness.report import capabilities
from harness.report.capabilities import (
    Capability,
    Row,
    Standing,
    capability_rows,
    judge_capabilities,
)
from harness.report.outcome import Outcome
from harness.report.run_store import describe_run, kept_runs, new_run

CELLS = ("a-caching", "b-caching")
TEST = "tests/test_it.py::test_x"


def outcome(verdict: Verdict, *, kernel: str = "a", test: str = TEST, message: str = "") -> Outcome:
    """Return an outcome of row A6; ``kernel`` "" is a test without a guest."""
    name = f"{test}[{kernel}-caching]" if kernel else test
    machine, cells = ("caching", CELLS) if kernel else ("", ())
    return Outcome(name, verdict, ("A6",), kernel, machine, cells, 0.5, message)


PASS = [outcome(Verdict.PASS, kernel="a"), outcome(Verdict.PASS, kernel="b")]
UNIT = outcome(Verdict.PASS, kernel="", test="tests/unit/test_u.py::test_u")


class Store:
    """A store of runs in which each is newer than the last."""

    def __init__(self, results: Path):
        self.results = results
        self.count = 0

    def keep(self, *outcomes: Outcome, whole: bool = False) -> str:
        self.count += 1
        head = describe_run(["pytest"], self.results, matrix="default", workers=1, whole=whole)
        object.__setattr__(head, "run", f"{self.count:04}")
        with new_run(self.results, head) as run:
            for item in outcomes:
                run.add(item)
            run.end(whole=True)
        return head.run

    def row(self, name: str = "A6") -> Capability:
        judged = judge_capabilities(kept_runs(self.results))
        assert [item.id for item in judged] == list(capability_rows())
        return {item.id: item for item in judged}[name]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty one."""
    return Store(tmp_path)


def test_a_row_without_a_test_is_untested(store: Store) -> None:
    assert store.row().status is Standing.UNTESTED


def test_a_row_is_proved_by_every_kernel_and_machine_of_its_matrix(store: Store) -> None:
    run = store.keep(*PASS)
    row = store.row()
    assert row.status is Standing.PROVED
    assert (row.tests, row.cells, row.runs) == ((TEST,), CELLS, (run,))


def test_a_row_is_partly_proved_while_a_kernel_has_not_been_run(store: Store) -> None:
    store.keep(PASS[0])
    row = store.row()
    assert row.status is Standing.PARTLY
    assert row.missing == ("not run on b-caching",)


def test_a_row_is_partly_proved_while_a_part_of_it_has_no_test(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"A6": Row("a sentence", partly="its end")}
    monkeypatch.setattr(capabilities, "capability_rows", lambda: rows)
    store.keep(*PASS)
    (row,) = judge_capabilities(kept_runs(store.results))
    assert (row.status, row.missing) == (Standing.PARTLY, ("its end",))


@pytest.mark.parametrize(
    "verdict", [Verdict.KERNEL_FAILURE, Verdict.HARNESS_FAILURE, Verdict.TIME_OUT]
)
def test_one_test_that_did_not_pass_makes_the_row_fail(store: Store, verdict: Verdict) -> None:
    store.keep(PASS[0], outcome(verdict, kernel="b"))
    assert store.row().status is Standing.FAILING


def test_the_graver_verdict_of_a_test_that_ran_twice_counts(store: Store) -> None:
    store.keep(outcome(Verdict.KERNEL_FAILURE), *PASS)
    assert store.row().status is Standing.FAILING


def test_a_skip_is_listed_with_its_reason_and_is_no_gap(store: Store) -> None:
    store.keep(PASS[0], outcome(Verdict.MISSING_REQUIREMENT, kernel="b", message="no KVM"))
    row = store.row()
    assert row.status is Standing.PROVED
    assert row.skipped == {"no KVM": ("b-caching",)}


def test_a_row_whose_tests_were_all_skipped_is_untested(store: Store) -> None:
    store.keep(outcome(Verdict.MISSING_REQUIREMENT), outcome(Verdict.MISSING_REQUIREMENT))
    assert store.row().status is Standing.UNTESTED


# Tests without a guest.


def test_a_test_without_a_guest_proves_nothing_and_is_listed(store: Store) -> None:
    store.keep(UNIT)
    row = store.row()
    assert (row.status, row.tests) == (Standing.UNTESTED, ())
    assert row.support == ("tests/unit/test_u.py::test_u",)


def test_a_row_that_speaks_of_no_guest_is_proved_without_one(store: Store) -> None:
    store.keep(replace(UNIT, rows=("D12",)))
    row = store.row("D12")
    assert (row.status, row.cells, row.support) == (Standing.PROVED, (), ())
    assert row.tests == ("tests/unit/test_u.py::test_u",)


def test_a_run_without_a_guest_does_not_replace_what_a_guest_proved(store: Store) -> None:
    guests = store.keep(*PASS, whole=True)
    units = store.keep(UNIT, whole=True)
    row = store.row()
    assert row.status is Standing.PROVED
    assert row.runs == (units, guests)


# Several runs.


def test_a_run_of_one_test_replaces_that_tests_result_only(store: Store) -> None:
    store.keep(*PASS, whole=True)
    store.keep(outcome(Verdict.KERNEL_FAILURE, kernel="b"))
    assert store.row().status is Standing.FAILING
    assert store.row().cells == ("a-caching",)
    store.keep(outcome(Verdict.PASS, kernel="b"))
    assert store.row().status is Standing.PROVED


def test_a_skip_does_not_replace_what_an_older_run_proved(store: Store) -> None:
    store.keep(*PASS, whole=True)
    store.keep(outcome(Verdict.MISSING_REQUIREMENT, message="no KVM"))
    assert store.row().status is Standing.PROVED
    assert store.row().skipped == {}


def test_a_test_that_is_gone_proves_nothing_behind_a_whole_run(store: Store) -> None:
    gone = outcome(Verdict.KERNEL_FAILURE, test="tests/test_it.py::test_gone")
    store.keep(*PASS, gone, whole=True)
    assert store.row().status is Standing.FAILING
    store.keep(*PASS, whole=True)
    assert store.row().status is Standing.PROVED


# The table itself.


def test_the_table_has_every_row_of_each_group() -> None:
    groups = {"A": 9, "B": 8, "C": 9, "D": 12, "E": 6, "F": 2, "G": 7}
    assert list(capability_rows()) == [
        f"{group}{number}" for group, count in groups.items() for number in range(1, count + 1)
    ]
