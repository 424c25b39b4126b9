"""The report of a validation, in each format."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.build.kernel import KernelRecipe, TreeSource
from harness.cli.validate import bisect_status
from harness.errors import Verdict
from harness.report.mail import EVIDENCE_LINES, shell_lines
from harness.report.outcome import Outcome
from harness.validate.comparison import compare
from harness.validate.cost import Cost
from harness.validate.formats import FORMATS
from harness.validate.report import Report
from harness.validate.trial import Subject
from harness.validate.validation import Candidate, Tried

BROKEN = "tests/guest/test_invalidation.py::test_no_operation_leaves_it[tree-linux-caching-MSI]"
SAME = "tests/guest/test_msi.py::test_it[tree-linux-caching]"
GONE = "tests/guest/test_msi.py::test_that[tree-linux-caching]"
FLAKY = "tests/guest/test_msi.py::test_now_and_then[tree-linux-caching]"
ERROR = "CheckFailed: 3 entries\n" + "\n".join(
    f"    | entry {n} \x1b[1m" + "x" * 90 for n in range(20)
)
SUBJECT = Subject(recipe=KernelRecipe("tree-linux", "it", tree=TreeSource("/there/linux")))


def outcomes(test: str, signs: str) -> list[Outcome]:
    verdicts = {
        "+": Verdict.PASS,
        "-": Verdict.KERNEL_FAILURE,
        "m": Verdict.MISSING_REQUIREMENT,
        "h": Verdict.HARNESS_FAILURE,
    }
    machine = {"kernel release": "6.12.0", "machine": "caching", "qemu": "11.1.3"}
    evidence = {"evidence": f"/there/{'deep/' * 30}", "reproduce": f"pytest {shlex.quote(test)}"}
    return [
        Outcome(
            test, verdicts[sign], ("G1",), "tree-linux", "caching", (), 0.5, "the last line",
            ERROR if sign == "-" else "", machine | (evidence if sign == "-" else {}),
        )
        for sign in signs
    ]  # fmt: skip


def tried(name: str, title: str, **patched: str) -> Tried:
    candidate = Candidate(name=name, title=title, subject=SUBJECT)
    tests = {"broken": BROKEN, "same": SAME, "gone": GONE, "flaky": FLAKY}
    base = {"broken": "++++", "same": "+", "gone": "m", "flaky": "-+++"}
    comparison = compare(
        [outcome for key in patched for outcome in outcomes(tests[key], base[key])],
        [outcome for key, signs in patched.items() for outcome in outcomes(tests[key], signs)],
    )
    return Tried(candidate=candidate, comparison=comparison)


def not_built(title: str) -> Tried:
    candidate = Candidate(name="patched", title=title, subject=SUBJECT)
    return Tried(candidate=candidate, error="the kernel does not build\n    | msi.c:7: error")


COST = Cost("MSI-X, interrupt: accesses", "caching", (0.0,) * 5, (1.0,) * 5)
CLEAN = Report(
    tree="/there/linux", base="v6.12", patched="v6.12 + 2 patches", series=("one", "two"),
    matrix="quick", tests=("tests/guest",), rows=("G1",), imsh="0.1.0", host="here",
    started="2026-11-28T08:00:00+00:00", seconds=90.0, directory="/there/results",
    command=("imsh", "validate", "--tree", "/there/linux"),
    tried=(tried("patch-1", "patch 1 of 2: one", same="+"),
           tried("patched", "patch 2 of 2: two", same="+", gone="m")),
)  # fmt: skip
WORSE = replace(
    CLEAN,
    tried=(
        tried("patch-1", "patch 1 of 2: one", same="+", broken="++++"),
        tried("patched", "patch 2 of 2: two", broken="----", same="+", gone="m", flaky="-+++"),
    ),
    costs=(COST, replace(COST, patched=(0.0,) * 5)),
)
REFUSED = replace(CLEAN, tried=(), refused="patch 2, 'two' (v2.mbox), does not apply\n    | why")
UNBUILT = replace(CLEAN, tried=(not_built("patch 1 of 1: one"),))
LOST = replace(CLEAN, tried=(tried("patched", "one", same="h"),))
MISSING = replace(CLEAN, tried=(tried("patched", "one", same="m"),))
ALL = {
    "clean": CLEAN, "worse": WORSE, "refused": REFUSED, "unbuilt": UNBUILT, "lost": LOST,
    "missing": MISSING,
}  # fmt: skip
each = pytest.mark.parametrize("report", ALL.values(), ids=ALL)


@pytest.mark.parametrize(
    ("name", "status", "bisect"),
    [
        ("clean", 0, 0),
        ("worse", 1, 1),
        ("refused", 1, 125),
        ("unbuilt", 1, 125),
        ("lost", 2, 128),
        ("missing", 3, 128),
    ],
)
def test_a_report_is_an_exit_status_for_a_script_and_one_for_git_bisect(
    name: str, status: int, bisect: int
) -> None:
    assert ALL[name].verdict.exit_status == status
    assert bisect_status(ALL[name]) == bisect


def test_a_broken_test_is_told_whatever_the_harness_lost_of_another_patch() -> None:
    broken = tried("patched", "two", broken="----")
    assert replace(LOST, tried=(*LOST.tried, broken)).verdict is Verdict.KERNEL_FAILURE


def test_an_operation_that_costs_more_is_worse_and_one_that_costs_less_is_not() -> None:
    assert replace(CLEAN, costs=(COST,)).verdict is Verdict.KERNEL_FAILURE
    cheaper = replace(COST, base=COST.patched, patched=COST.base)
    assert replace(CLEAN, costs=(cheaper,)).verdict is Verdict.PASS


def read_by_shell(script: str) -> list[str]:
    """Return the words of a command, as a shell joins its lines; of one without backslashes."""
    return shlex.split(script.replace("\\\n", ""))


def text(report: Report, name: str) -> str:
    return FORMATS[name][1](report)


@each
def test_no_line_of_the_mail_is_longer_than_74_columns(report: Report) -> None:
    assert max(map(len, text(report, "text").splitlines())) <= 74


def test_the_mail_names_test_row_patch_evidence_and_what_repeats_it() -> None:
    said = text(WORSE, "text")
    joined = "".join(line.strip() for line in said.splitlines())
    assert said.startswith("imsh validate: 1 test broken, 1 operation more expensive\n")
    assert "guest    6.12.0 on caching, QEMU 11.1.3" in said
    assert BROKEN in joined
    assert "rows G1; base failed 0 of 4, patched failed 4 of 4" in said
    assert "since patch 2 of 2: two" in said
    assert "CheckFailed: 3 entries" in said
    assert len([line for line in said.splitlines() if line.startswith("  |")]) == EVIDENCE_LINES
    assert "MSI-X, interrupt: accesses (caching): 0 -> 1, worse; noise 0" in joined.replace(
        "  ", " "
    )
    assert "1 within the noise" in said
    repeat = said.partition("repeat it:\n")[2].partition("\n\n")[0]
    assert read_by_shell(repeat) == ["pytest", BROKEN]


@settings(deadline=None, database=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0\\", exclude_categories=["Cs"]))))
def test_a_command_over_several_lines_is_the_same_to_a_shell(words: list[str]) -> None:
    assert read_by_shell("\n".join(shell_lines(["printf", *words]))) == ["printf", *words]


def test_a_real_shell_reads_it_as_well() -> None:
    words = ["a b", "it's", "x" * 200, "'" * 90, 'say "$HOME" `twice`', "t[a-b]" * 30]
    script = "\n".join(shell_lines(["printf", "%s|", *words]))
    ran = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "".join(f"{word}|" for word in words)
    assert max(map(len, script.splitlines())) <= 74


@each
def test_ktap_has_as_many_results_as_its_plan_says_each_on_one_line(report: Report) -> None:
    version, plan, *lines = text(report, "ktap").splitlines()
    assert version == "KTAP version 1"
    results = [line.split() for line in lines if line.startswith(("ok ", "not ok "))]
    assert plan == f"1..{len(results)}"
    numbers = [int(words[2] if words[0] == "not" else words[1]) for words in results]
    assert numbers == list(range(1, len(results) + 1))
    assert all(line.startswith(("ok ", "not ok ", "#")) for line in lines)


def test_ktap_says_not_ok_of_what_got_worse_and_expected_of_what_fails_besides() -> None:
    lines = text(WORSE, "ktap").splitlines()
    bad = [line.split(" ", 3)[3] for line in lines if line.startswith("not ok")]
    broken, flaky, cost = bad
    assert broken.startswith(f"{BROKEN} # broken: base failed 0 of 4")
    assert flaky.startswith(f"{FLAKY} # XFAIL flaky: ")
    assert cost.startswith("costs: MSI-X, interrupt: accesses, caching # ")
    assert any(line.endswith(f"{GONE} # SKIP the last line") for line in lines)


@each
def test_junit_can_be_read_whatever_a_guest_has_printed_and_its_counts_are_right(
    report: Report,
) -> None:
    suite = ET.fromstring(text(report, "junit").partition("\n")[2])
    assert int(suite.get("tests", "")) == len(suite.findall("testcase"))
    assert int(suite.get("failures", "")) == len(suite.findall("testcase/failure"))
    worse = bool(suite.findall("testcase/failure"))
    assert worse == (report.verdict is Verdict.KERNEL_FAILURE)


def test_b4_is_told_nothing_of_a_success_and_a_line_of_each_failure() -> None:
    assert text(CLEAN, "b4") == ""
    broken, flaky, cost = text(WORSE, "b4").splitlines()
    assert broken.startswith(f"ERROR: broken: {BROKEN}")
    assert flaky.startswith("flaky: ")
    assert cost.startswith("ERROR: MSI-X, interrupt")
    for report in (REFUSED, UNBUILT, LOST, MISSING):
        assert text(report, "b4").startswith("ERROR: ")


def test_json_has_every_run_of_every_test_and_the_verdict() -> None:
    found = json.loads(text(WORSE, "json"))
    assert found["verdict"] == "kernel failure"
    tests = {test["test"]: test for test in found["tried"][-1]["tests"]}
    assert tests[BROKEN]["change"] == "broken"
    assert [run["verdict"] for run in tests[BROKEN]["patched"]] == ["kernel failure"] * 4
    assert [cost["worse"] for cost in found["costs"]] == [True, False]


def test_markdown_keeps_a_table_whole_whatever_stands_in_a_cell() -> None:
    said = text(replace(WORSE, tree="/a|b\n|c"), "markdown")
    rows = [line for line in said.splitlines() if line.startswith("| tree")]
    assert rows == [r"| tree | /a\|b \|c |"]
    assert f"## Broken: `{BROKEN}`" in said
    assert "Since patch 2 of 2: two." in said
