# Ref: b4, docs/config.rst (b4.am-perpatch-check-cmd, b4.prep-perpatch-check-cmd)
"""A report as b4 takes it from a check command: nothing is a success, a line each is a warning.

A line that begins with ERROR is a failure.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.errors import Verdict
from harness.validate.comparison import Change
from harness.validate.formats.text import cost_line
from harness.validate.report import Report


def as_b4(report: Report) -> str:
    """Return the lines."""
    return "".join(f"{' '.join(line.split())}\n" for line in _lines(report))


def _lines(report: Report) -> Iterator[str]:
    if report.refused:
        yield f"ERROR: {report.refused.partition(chr(10))[0]}"
    for item in report.not_built:
        yield f"ERROR: does not build: {item.candidate.title}"
    for test in report.broken:
        why = test.reason and f": {test.reason}"
        yield f"ERROR: broken: {test.test}: base {test.base}, patched {test.patched}{why}"
    for test in report.whole.of(Change.FLAKY, Change.UNSURE):
        yield f"{test.change}: {test.test}: base {test.base}, patched {test.patched}"
    for cost in report.changed_costs:
        yield f"{'ERROR: ' * cost.worse}{cost_line(cost)}"
    if report.verdict in (Verdict.HARNESS_FAILURE, Verdict.MISSING_REQUIREMENT):
        yield f"ERROR: {report.headline}; see {report.directory}"
