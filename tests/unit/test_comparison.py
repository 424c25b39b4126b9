"""What the tests said on two kernels, compared."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import Verdict
from harness.report.outcome import Outcome
from harness.validate.comparison import (
    AGAIN,
    ENOUGH,
    MOST,
    Change,
    Comparison,
    Runs,
    change_between,
    compare,
    still_to_run,
)

TEST = "tests/guest/test_msi.py::test_it[tree-linux-caching]"
QUIET = settings(deadline=None, database=None)
SIGNS = {
    "+": Verdict.PASS,
    "-": Verdict.KERNEL_FAILURE,
    "t": Verdict.TIME_OUT,
    "h": Verdict.HARNESS_FAILURE,
    "m": Verdict.MISSING_REQUIREMENT,
}


def outcomes(signs: str, test: str = TEST) -> list[Outcome]:
    """Return a run's outcome for each sign."""
    return [Outcome(test, SIGNS[sign], message=sign) for sign in signs]


def of(base: str, patched: str) -> Comparison:
    return compare(outcomes(base), outcomes(patched))


@pytest.mark.parametrize(
    ("base", "patched", "change"),
    [
        ("+", "+", Change.SAME),
        ("-", "-", Change.SAME),
        ("-", "t", Change.SAME),
        ("+", "-", Change.UNSURE),
        ("+", "t", Change.UNSURE),
        ("++++", "----", Change.BROKEN),
        ("++++", "t--t", Change.BROKEN),
        ("----", "++++", Change.FIXED),
        ("-", "+", Change.UNSURE),
        ("++++", "-+--", Change.UNSURE),
        ("+" * MOST, "-+--++++-+", Change.BROKEN),
        ("+" * MOST, "-+--++++++", Change.FLAKY),
        ("++-+", "----", Change.FLAKY),
        ("----", "++-+", Change.FLAKY),
        ("", "+", Change.NEW),
        ("", "-", Change.NEW),
        ("m", "+", Change.NEW),
        ("h", "-", Change.NOT_RUN),
        ("+", "h", Change.NOT_RUN),
        ("+", "m", Change.NOT_RUN),
        ("+", "", Change.NOT_RUN),
        ("m", "m", Change.NOT_RUN),
        ("h+++", "-hhh", Change.UNSURE),
        ("h+h+++", "----", Change.BROKEN),
    ],
)
def test_a_test_is_called_by_all_its_runs(base: str, patched: str, change: Change) -> None:
    (compared,) = of(base, patched).tests
    assert compared.change is change


@pytest.mark.parametrize(
    ("base", "patched", "verdict"),
    [
        ("+", "+", Verdict.PASS),
        ("-", "-", Verdict.PASS),
        ("++-+", "----", Verdict.PASS),
        ("++++", "----", Verdict.KERNEL_FAILURE),
        ("+", "-", Verdict.HARNESS_FAILURE),
        ("+", "h", Verdict.HARNESS_FAILURE),
        ("h", "+", Verdict.HARNESS_FAILURE),
        ("+", "m", Verdict.MISSING_REQUIREMENT),
        ("+", "", Verdict.MISSING_REQUIREMENT),
        ("m", "m", Verdict.MISSING_REQUIREMENT),
        ("", "", Verdict.MISSING_REQUIREMENT),
    ],
)
def test_nothing_got_worse_is_said_only_of_what_was_seen(
    base: str, patched: str, verdict: Verdict
) -> None:
    assert of(base, patched).verdict is verdict


def test_what_is_skipped_on_both_kernels_does_not_spoil_the_rest() -> None:
    other = TEST.replace("test_it", "test_that")
    both = [*outcomes("+"), *outcomes("m", other)]
    assert compare(both, both).verdict is Verdict.PASS
    assert compare([*outcomes("+"), *outcomes("+", other)], both).verdict is (
        Verdict.MISSING_REQUIREMENT
    )


def test_tests_stay_in_the_order_in_which_the_patched_kernel_ran_them() -> None:
    names = ["c", "a", "b"]
    ran = [outcome for name in names for outcome in outcomes("+", name)]
    comparison = compare([*reversed(ran), *outcomes("+", "z")], ran)
    assert [item.test for item in comparison.tests] == [*names, "z"]
    assert comparison.counts == {Change.NOT_RUN: 1, Change.SAME: 3}


def test_each_side_says_in_a_word_or_two_what_it_was() -> None:
    (compared,) = of("++++", "-+h-").tests
    assert (str(compared.base), str(compared.patched)) == ("failed 0 of 4", "failed 2 of 3")
    (compared,) = of("+", "h").tests
    assert (str(compared.base), str(compared.patched)) == ("passed", "harness failure")
    assert compared.reason == "h"


signs = st.text("+-thm", max_size=MOST)


@settings(QUIET)
@given(signs)
def test_a_kernel_is_never_worse_than_itself(runs: str) -> None:
    assert not of(runs, runs).of(Change.BROKEN, Change.FIXED, Change.UNSURE, Change.NEW)


@settings(QUIET)
@given(signs, signs)
def test_one_failure_on_the_base_acquits_the_patch(base: str, patched: str) -> None:
    if set(base) & set("-t"):
        assert not of(base, patched).of(Change.BROKEN)


@settings(QUIET)
@given(st.integers(1, MOST), st.integers(1, MOST))
def test_what_never_fails_is_not_broken_and_once_is_never_enough(base: int, patched: int) -> None:
    assert not of("+" * base, "+" * patched).of(Change.BROKEN)
    assert not of("+" * base, "-").of(Change.BROKEN)


@settings(QUIET)
@given(signs, signs, st.data())
def test_neither_order_nor_what_the_harness_lost_changes_a_call(
    base: str, patched: str, data: st.DataObject
) -> None:
    shuffled = "".join(data.draw(st.permutations(patched + "hh")))
    before = change_between(Runs(tuple(outcomes(base))), Runs(tuple(outcomes(patched))))
    after = change_between(Runs(tuple(outcomes(base))), Runs(tuple(outcomes(shuffled))))
    assert after is before


@settings(QUIET)
@given(st.integers(1, MOST), st.integers(1, MOST))
def test_broken_and_fixed_are_the_same_call_from_both_ends(good: int, bad: int) -> None:
    worse, better = of("+" * good, "-" * bad), of("-" * bad, "+" * good)
    assert bool(worse.of(Change.BROKEN)) == bool(better.of(Change.FIXED))


def test_a_failure_that_always_comes_is_certain_after_the_first_runs_again() -> None:
    assert of("+" * AGAIN, "-" * AGAIN).of(Change.UNSURE)
    runs = 1 + AGAIN
    assert of("+" * runs, "-" * runs).of(Change.BROKEN)


def test_what_differs_or_was_lost_is_run_again_and_nothing_else() -> None:
    sides = {"differs": ("+", "-"), "lost": ("+", "h"), "same": ("-", "-"), "gone": ("+", "m")}
    comparison = compare(
        [item for name, (base, _) in sides.items() for item in outcomes(base, name)],
        [item for name, (_, patched) in sides.items() for item in outcomes(patched, name)],
    )
    again = [[item.test for item in still_to_run(comparison, number)] for number in (1, AGAIN + 1)]
    assert again == [["differs", "lost"], ["differs"]]


def test_a_kernel_that_does_nothing_right_is_not_run_again_for_ever() -> None:
    names = [f"test_{number}" for number in range(3 * ENOUGH)]
    base = [outcome for name in names for outcome in outcomes("+" * (1 + AGAIN), name)]
    once = [outcome for name in names for outcome in outcomes("-", name)]
    assert len(still_to_run(compare(base, once), 1)) == ENOUGH
    more = [outcome for name in names[:ENOUGH] for outcome in outcomes("-" * AGAIN, name)]
    assert still_to_run(compare(base, [*once, *more]), AGAIN + 1) == []
