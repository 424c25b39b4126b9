"""What became of a fault, by the outcomes of its tests."""

from __future__ import annotations

from harness.errors import Verdict
from harness.faults.change import skip
from harness.faults.fault import Fault
from harness.faults.place import entry_of
from harness.faults.score import FAULT_PROPERTY, Fate, Finding, Score, judge
from harness.faults.seed import Patch
from harness.report.outcome import Outcome

FAULT = Fault(
    name="a-fault",
    imitates="nothing",
    seed=Patch(entry_of("f"), skip),
    rows=("B4", "G3"),
    tests=("test_a.py",),
)


def outcome(verdict: Verdict, *rows: str, seeded: bool = True) -> Outcome:
    place = {FAULT_PROPERTY: "a-fault at f+0"} if seeded else {}
    return Outcome("tests/a.py::t[k-m]", verdict, rows=rows, message="why", provenance=place)


def fate(*outcomes: Outcome) -> Fate:
    return judge(FAULT, "k", outcomes).fate


def test_a_red_test_of_a_row_that_should_see_it_has_caught_it() -> None:
    found = judge(
        FAULT, "k", [outcome(Verdict.PASS, "B4"), outcome(Verdict.KERNEL_FAILURE, "B8", "G3")]
    )
    assert (found.fate, found.rows, found.where) == (Fate.CAUGHT, ("B8", "G3"), "a-fault at f+0")
    assert fate(outcome(Verdict.TIME_OUT, "B4")) is Fate.CAUGHT


def test_a_red_test_of_another_row_is_not_the_right_one() -> None:
    assert fate(outcome(Verdict.KERNEL_FAILURE, "B8")) is Fate.ELSEWHERE
    assert fate(outcome(Verdict.KERNEL_FAILURE)) is Fate.ELSEWHERE


def test_a_test_that_blames_the_harness_has_not_caught_it() -> None:
    assert fate(outcome(Verdict.HARNESS_FAILURE, "B4")) is Fate.MISJUDGED


def test_a_test_that_was_red_before_the_fault_was_there_has_not_caught_it() -> None:
    assert fate(outcome(Verdict.KERNEL_FAILURE, "B4", seeded=False)) is Fate.MISJUDGED


def test_tests_that_pass_with_it_have_missed_it() -> None:
    assert fate(outcome(Verdict.PASS, "B4"), outcome(Verdict.PASS, "G3")) is Fate.MISSED
    # Skipped for a reason of its own: what ran decides.
    skipped = outcome(Verdict.MISSING_REQUIREMENT, "B4")
    assert fate(outcome(Verdict.PASS, "B4"), skipped) is Fate.MISSED


def test_a_fault_that_has_no_place_is_never_caught() -> None:
    skipped = outcome(Verdict.MISSING_REQUIREMENT, "B4", seeded=False)
    assert fate(skipped) is Fate.NOT_APPLICABLE
    assert fate() is Fate.NOT_APPLICABLE


def test_the_score_is_of_what_could_be_seeded() -> None:
    fates = [Fate.CAUGHT] * 3 + [Fate.ELSEWHERE, Fate.NOT_APPLICABLE]
    score = Score.of(Finding(fault="a", kernel="k", fate=one, reason="") for one in fates)
    assert (score.applicable, score.percent) == (4, 75.0)
    assert str(score) == "3 caught, 1 caught elsewhere, 1 not applicable: 75 % of 4"
    assert Score.of([]).percent == 0
