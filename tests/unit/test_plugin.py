"""What the pytest plugin makes of tests that have no guest."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from harness.errors import Verdict
from harness.host.deadline import SLOWDOWN_VARIABLE
from harness.pytest_plugin.record import plain_nodeid
from harness.report.outcome import Outcome
from harness.report.run_store import kept_runs

VERDICTS = """
import pytest
from harness.errors import MissingRequirement

def test_passes(record_property):
    record_property("loops", 7)

def test_fails():
    assert 0

def test_is_skipped():
    pytest.skip("for want of a tool")

def test_lacks_something():
    raise MissingRequirement("a tool")

@pytest.mark.xfail(strict=True)
def test_passes_against_expectation():
    pass

@pytest.mark.xfail
def test_fails_as_expected():
    assert 0

@pytest.fixture
def late():
    yield
    assert 0

def test_fails_at_its_end(late):
    pass

@pytest.mark.timeout(0.1)
def test_never_ends():
    while True:
        pass
"""


def outcomes(pytester: pytest.Pytester, *options: str) -> dict[str, tuple[Outcome, ET.Element]]:
    """Run the tests, and return what the record and the JUnit report have of each."""
    pytester.makepyfile(VERDICTS)
    words = ("-p", "no:cacheprovider", "--results", "results", "--junit-xml", "junit.xml")
    pytester.runpytest_subprocess(*words, *options)
    cases = {
        case.get("name"): case for case in ET.parse(pytester.path / "junit.xml").iter("testcase")
    }
    (run,) = kept_runs(pytester.path / "results")
    return {
        (name := outcome.test.partition("::test_")[2]): (outcome, cases[f"test_{name}"])
        for outcome in run.outcomes
    }


def properties(case: ET.Element) -> dict[str | None, str | None]:
    return {item.get("name"): item.get("value") for item in case.iter("property")}


def test_the_record_and_the_report_have_the_verdict_of_each_test(
    pytester: pytest.Pytester,
) -> None:
    found = outcomes(pytester)
    assert {name: outcome.verdict for name, (outcome, _) in found.items()} == {
        "passes": Verdict.PASS,
        "fails": Verdict.HARNESS_FAILURE,
        "is_skipped": Verdict.MISSING_REQUIREMENT,
        "lacks_something": Verdict.MISSING_REQUIREMENT,
        "passes_against_expectation": Verdict.HARNESS_FAILURE,
        "fails_as_expected": Verdict.HARNESS_FAILURE,
        "fails_at_its_end": Verdict.HARNESS_FAILURE,
        "never_ends": Verdict.TIME_OUT,
    }
    for outcome, case in found.values():
        # A test that fails at its end stands in the report twice: in the end as a failure.
        assert properties(case)["verdict"] == outcome.verdict
    assert properties(found["passes"][1])["loops"] == "7", "what a test records of its own stays"
    assert found["lacks_something"][1].find("skipped") is not None


def test_what_ci_requires_is_an_error_when_it_is_missing(pytester: pytest.Pytester) -> None:
    outcome, case = outcomes(pytester, "--require", "-k", "lacks")["lacks_something"]
    assert outcome.verdict is Verdict.MISSING_REQUIREMENT
    assert case.find("failure") is not None


def test_a_row_that_the_table_does_not_have_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.capability('Z9')\ndef test_x(): pass")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.stderr.fnmatch_lines(["ERROR: *::test_x: there is no capability 'Z9'"])


@pytest.mark.parametrize(("factor", "passed"), [("1", 0), ("100", 1)])
def test_a_time_out_of_pytests_own_is_stretched_as_ours_are(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, factor: str, passed: int
) -> None:
    monkeypatch.setenv(SLOWDOWN_VARIABLE, factor)
    pytester.makepyfile("import threading\ndef test_x(): threading.Event().wait(0.5)")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--timeout", "0.1")
    result.assert_outcomes(passed=passed, failed=1 - passed)


@pytest.mark.parametrize("name", ["a/t.py::x", "a/t.py::x[k-m]", "a@b/t.py::x", "t.py::x[a@b]"])
def test_the_group_of_a_worker_is_no_part_of_a_name(name: str) -> None:
    assert plain_nodeid(name) == plain_nodeid(f"{name}@tests.guest-debian-6.1-caching") == name
