"""A report as a mail: plain text, no line longer than 74 columns."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from typing import Final

from harness.report.mail import quoted, shell_lines, wrapped
from harness.validate.comparison import Change, Compared
from harness.validate.cost import Cost
from harness.validate.report import Report, count

LISTED: Final = 20
"""How many tests of a kind are named; the others are counted."""

_TITLES: Final = {
    Change.UNSURE: "Failed on one of the two, and not run often enough to say more",
    Change.FLAKY: "Flaky",
    Change.FIXED: "Fixed",
    Change.NEW: "New: not there on the base, or something was missing for it",
    Change.NOT_RUN: "Not run",
}
_LABEL: Final = 9


def as_text(report: Report) -> str:
    """Return the report."""
    lines = [*wrapped(f"imsh validate: {report.headline}"), "", *_facts(report), ""]
    if report.refused:
        lines += [*quoted(report.refused), ""]
    for item in report.not_built:
        lines += [*wrapped(f"Does not build: {item.candidate.title}"), *quoted(item.error), ""]
    if counts := report.whole.counts:
        said = ", ".join(f"{number} {change}" for change, number in counts.items())
        lines += [*wrapped(f"Tests: {said}"), ""]
    for test in report.broken:
        lines += [*broken_lines(report, test), ""]
    for change, title in _TITLES.items():
        lines += _section(title, (_line(test) for test in report.whole.of(change)))
    both = report.whole.failing_on_both
    lines += _section("Fails on the base as well", (test.test for test in both))
    lines += _costs(report)
    lines += _patches(report)
    lines += ["To repeat all of it:", *shell_lines(report.command)]
    return "\n".join(lines) + "\n"


def broken_lines(report: Report, test: Compared) -> Iterator[str]:
    """Yield what there is to say about a broken test: where, since when, why, and the repeat."""
    yield from wrapped(f"BROKEN {test.test}")
    rows = ", ".join(test.known.rows) or "none"
    yield from wrapped(
        f"rows {rows}; base {test.base}, patched {test.patched}", first="  ", rest="  "
    )
    if culprit := report.culprit(test):
        yield from wrapped(f"since {culprit.candidate.title}", first="  ", rest="  ")
    if failure := test.patched.failure:
        yield from quoted(failure.error or failure.message)
        if where := failure.provenance.get("evidence"):
            yield from wrapped(f"evidence: {where}", first="  ", rest="    ")
        if line := failure.provenance.get("reproduce"):
            yield "  repeat it:"
            yield from shell_lines(shlex.split(line))


def _facts(report: Report) -> Iterator[str]:
    def fact(name: str, text: str) -> list[str]:
        label = f"{name:<{_LABEL}}"
        return wrapped(text, first=label, rest=" " * _LABEL)

    yield from fact("tree", report.tree)
    yield from fact("base", report.base)
    yield from fact("patched", report.patched)
    for number, subject in enumerate(report.series, start=1):
        yield from wrapped(f"{number}. {subject}", first=" " * _LABEL, rest=" " * (_LABEL + 3))
    tests = shlex.join(report.tests)
    yield from fact("tests", f"{tests}; matrix {report.matrix}")
    if report.rows:
        yield from fact("first", f"the rows {', '.join(report.rows)}")
    for machine in report.machines:
        yield from fact("guest", machine)
    yield from fact("by", f"imsh {report.imsh}")
    yield from fact("on", report.host)
    yield from fact("when", f"{report.started}, {report.seconds / 60:.1f} min")
    yield from fact("results", report.directory)


def _line(test: Compared) -> str:
    said = f"{test.test}: base {test.base}, patched {test.patched}"
    return f"{said}: {test.reason}" if test.reason else said


def _section(title: str, lines: Iterable[str]) -> list[str]:
    listed = list(lines)
    if not listed:
        return []
    shown = [line for text in listed[:LISTED] for line in wrapped(text, first="  ", rest="    ")]
    more = [f"  and {len(listed) - LISTED} more"] * (len(listed) > LISTED)
    return [*wrapped(f"{title}: {count(listed, 'test')}"), *shown, *more, ""]


def cost_line(cost: Cost) -> str:
    """Return what became of a cost."""
    word = "worse" if cost.worse else "better"
    return (
        f"{cost.quantity} ({cost.machine}): {cost.before:g} -> {cost.after:g}, {word}; "
        f"noise {cost.noise:g}, {len(cost.base)} and {len(cost.patched)} runs"
    )


def _costs(report: Report) -> list[str]:
    if not report.costs:
        return []
    changed = [
        line
        for cost in report.changed_costs
        for line in wrapped(cost_line(cost), first="  ", rest="    ")
    ]
    same = len(report.costs) - len(report.changed_costs)
    return ["Measured side by side:", *changed, f"  {same} within the noise of this run", ""]


def _patches(report: Report) -> list[str]:
    if len(report.tried) < 2:
        return []
    lines = ["Patch by patch, each against the base:"]
    for item in report.tried:
        if item.comparison:
            counts = item.comparison.counts
            said = ", ".join(f"{number} {change}" for change, number in counts.items())
        else:
            said = "does not build"
        lines += wrapped(f"{item.candidate.title}: {said}", first="  ", rest="    ")
    return [*lines, ""]
