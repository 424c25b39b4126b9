"""What the pytest plugin makes of tests that have no guest."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from harness.errors import Verdict
from harness.report.outcome import Outcome, read_outcomes
from harness.report.record import plain_nodeid


def outcome(pytester: pytest.Pytester, body: str, *options: str) -> Outcome:
    """Run one test, and return what the record says of it."""
    pytester.makepyfile(f"import pytest\nfrom harness.errors import MissingRequirement\n{body}")
    words = ("-p", "no:cacheprovider", "--results", "results", "--junit-xml", "junit.xml")
    pytester.runpytest_subprocess(*words, *options)
    (found,) = read_outcomes(pytester.path / "results")
    return found


FAILS_LATE = """
@pytest.fixture
def late():
    yield
    assert 0

def test_x(late): pass
"""
RAISES = "def test_x():\n    raise MissingRequirement('a tool')\n"


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ("def test_x(): pass", Verdict.PASS),
        ("def test_x(): assert 0", Verdict.HARNESS_FAILURE),
        ("def test_x(): pytest.skip('a tool')", Verdict.MISSING_REQUIREMENT),
        (RAISES, Verdict.MISSING_REQUIREMENT),
        ("@pytest.mark.xfail(strict=True)\ndef test_x(): pass", Verdict.HARNESS_FAILURE),
        ("@pytest.mark.xfail\ndef test_x(): assert 0", Verdict.HARNESS_FAILURE),
        (FAILS_LATE, Verdict.HARNESS_FAILURE),
        ("@pytest.mark.timeout(0.1)\ndef test_x():\n    while True: pass", Verdict.TIME_OUT),
    ],
    ids=[
        "passes",
        "fails",
        "is skipped",
        "lacks something",
        "passes against expectation",
        "fails as expected",
        "fails at its end",
        "never ends",
    ],
)
def test_the_report_has_the_verdict_of_a_test_that(
    pytester: pytest.Pytester, body: str, verdict: Verdict
) -> None:
    assert outcome(pytester, body).verdict is verdict
    (case,) = ET.parse(pytester.path / "junit.xml").getroot().iter("testcase")
    known = {item.get("name"): item.get("value") for item in case.iter("property")}
    assert known["verdict"] == verdict


def test_what_ci_requires_is_an_error_when_it_is_missing(pytester: pytest.Pytester) -> None:
    found = outcome(pytester, RAISES, "--require")
    assert found.verdict is Verdict.MISSING_REQUIREMENT
    (case,) = ET.parse(pytester.path / "junit.xml").getroot().iter("testcase")
    assert case.find("failure") is not None


def test_what_a_test_records_of_its_own_stays(pytester: pytest.Pytester) -> None:
    outcome(pytester, "def test_x(record_property): record_property('loops', 7)")
    (case,) = ET.parse(pytester.path / "junit.xml").getroot().iter("testcase")
    known = {item.get("name"): item.get("value") for item in case.iter("property")}
    assert known["loops"] == "7"


def test_a_row_that_the_table_does_not_have_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.capability('Z9')\ndef test_x(): pass")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.stderr.fnmatch_lines(["ERROR: *::test_x: there is no capability 'Z9'"])


@pytest.mark.parametrize("name", ["a/t.py::x", "a/t.py::x[k-m]", "a@b/t.py::x", "t.py::x[a@b]"])
def test_the_group_of_a_worker_is_no_part_of_a_name(name: str) -> None:
    assert plain_nodeid(name) == plain_nodeid(f"{name}@tests.guest-debian-6.1-caching") == name
