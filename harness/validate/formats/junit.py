"""A report as CI servers speak: JUnit's XML. A failure is what got worse."""

from __future__ import annotations

import re
from typing import Final
from xml.etree import ElementTree as ET

from harness.validate.comparison import Change, Compared
from harness.validate.formats.text import broken_lines, cost_line
from harness.validate.report import Report

_NO_XML: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold (section 2.2), and a guest's console can."""


def as_junit(report: Report) -> str:
    """Return the report: a test case for each test, state of the tree and quantity."""
    suite = ET.Element("testsuite", name="imsh validate", timestamp=report.started)
    facts = ET.SubElement(suite, "properties")
    for name in ("tree", "base", "patched", "matrix", "imsh", "host", "directory", "headline"):
        ET.SubElement(facts, "property", name=name, value=_clean(getattr(report, name)))
    if report.refused:
        _said(_case(suite, "series", "applies"), "failure", "does not apply", report.refused)
    for item in report.tried:
        case = _case(suite, "build", item.candidate.title)
        if item.comparison is None:
            _said(case, "failure", "does not build", item.error)
    for test in report.whole.tests:
        _add_test(suite, report, test)
    for cost in report.costs:
        case = _case(suite, f"cost.{cost.machine}", cost.quantity)
        if cost.changed and cost.worse:
            _said(case, "failure", "costs more than on the base", cost_line(cost))
    kinds = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
    for name, tag in kinds.items():
        suite.set(name, str(sum(1 for _ in suite.iter(tag))))
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _add_test(suite: ET.Element, report: Report, test: Compared) -> None:
    file, _, name = test.test.partition("::")
    case = _case(suite, file.removesuffix(".py").replace("/", "."), name)
    case.set("time", f"{sum(run.seconds for run in test.patched.outcomes):.3f}")
    runs = f"{test.change}: base {test.base}, patched {test.patched}"
    if test.change is Change.BROKEN:
        _said(case, "failure", runs, "\n".join(broken_lines(report, test)))
    elif test.change is Change.UNSURE or test.base.lost or test.patched.lost:
        _said(case, "error", runs, test.reason)
    elif test.change is Change.NOT_RUN:
        _said(case, "skipped", test.reason or runs, "")
    elif test.patched.failed:
        _said(case, "skipped", f"fails, but is not broken; {runs}", test.reason)
    elif test.change is not Change.SAME:
        ET.SubElement(case, "system-out").text = _clean(runs)


def _case(suite: ET.Element, group: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=_clean(group), name=_clean(name))


def _said(case: ET.Element, tag: str, message: str, text: str) -> None:
    ET.SubElement(case, tag, message=_clean(message)).text = _clean(text)


def _clean(text: str) -> str:
    return _NO_XML.sub("?", text)
