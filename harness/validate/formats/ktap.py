# Ref: Linux, Documentation/dev-tools/ktap.rst (KTAP version 1)
"""A report as the kernel's own tests speak: KTAP."""

from __future__ import annotations

from collections.abc import Iterator

from harness.validate.comparison import Change, Compared
from harness.validate.formats.text import cost_line
from harness.validate.report import Report


def as_ktap(report: Report) -> str:
    """Return the report: ``not ok`` is what got worse, or could not be told."""
    return "\n".join(["KTAP version 1", *_lines(report)]) + "\n"


def _lines(report: Report) -> Iterator[str]:
    results = [*_states(report), *(_result(test) for test in report.whole.tests), *_costs(report)]
    yield f"1..{len(results)}"
    yield f"# imsh validate: {report.headline}"
    yield f"# base {report.base}, patched {report.patched}"
    broken = {test.test: test for test in report.broken}
    for number, (held, name, said) in enumerate(results, start=1):
        if (test := broken.get(name)) and (failure := test.patched.failure):
            yield from (f"# {line}" for line in failure.error.splitlines()[:10])
        # A "#" would begin the directive, and a line is one result.
        plain = " ".join(name.replace("#", "_").split())
        told = " ".join(said.split())
        yield f"{'ok' if held else 'not ok'} {number} {plain}{f' # {told}' if told else ''}"


def _states(report: Report) -> Iterator[tuple[bool, str, str]]:
    if report.refused:
        yield False, "the series applies", report.refused.partition("\n")[0]
    for item in report.tried:
        yield item.comparison is not None, f"builds: {item.candidate.title}", ""


def _result(test: Compared) -> tuple[bool, str, str]:
    """Return whether a test is ok, its name, and directive with diagnostic data."""
    runs = f"{test.change}: base {test.base}, patched {test.patched}"
    match test.change:
        case Change.BROKEN:
            return False, test.test, runs
        case Change.UNSURE:
            return False, test.test, f"ERROR {runs}"
        case Change.NOT_RUN:
            lost = test.base.lost or test.patched.lost
            word = "ERROR" if lost else "SKIP"
            return not lost, test.test, f"{word} {test.reason or runs}"
        case _ if test.patched.failed:
            # The base fails as well, or has no such test: nobody expects it to pass.
            return False, test.test, f"XFAIL {runs}"
        case _:
            return True, test.test, "" if test.change is Change.SAME else runs


def _costs(report: Report) -> Iterator[tuple[bool, str, str]]:
    for cost in report.costs:
        bad = cost.changed and cost.worse
        yield not bad, f"costs: {cost.quantity}, {cost.machine}", cost_line(cost) * bad
