"""A report as a mail: plain text, no line longer than 74 columns."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

from harness.validate.comparison import Change, Compared
from harness.validate.cost import Cost
from harness.validate.report import Report, count

WIDTH: Final = 74
EVIDENCE_LINES: Final = 10
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
    lines = [*_wrapped(f"imsh validate: {report.headline}"), "", *_facts(report), ""]
    if report.refused:
        lines += [*_quoted(report.refused), ""]
    for item in report.not_built:
        lines += [*_wrapped(f"Does not build: {item.candidate.title}"), *_quoted(item.error), ""]
    if counts := report.whole.counts:
        said = ", ".join(f"{number} {change}" for change, number in counts.items())
        lines += [*_wrapped(f"Tests: {said}"), ""]
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
    yield from _wrapped(f"BROKEN {test.test}")
    rows = ", ".join(test.known.rows) or "none"
    yield from _wrapped(
        f"rows {rows}; base {test.base}, patched {test.patched}", first="  ", rest="  "
    )
    if culprit := report.culprit(test):
        yield from _wrapped(f"since {culprit.candidate.title}", first="  ", rest="  ")
    if failure := test.patched.failure:
        yield from _quoted(failure.error or failure.message)
        if where := failure.provenance.get("evidence"):
            yield from _wrapped(f"evidence: {where}", first="  ", rest="    ")
        if line := failure.provenance.get("reproduce"):
            yield "  repeat it:"
            yield from shell_lines(shlex.split(line))


def shell_lines(words: Iterable[str]) -> list[str]:
    """Return a command on lines that fit, to be pasted as they are: they begin in column 0."""
    room = WIDTH - len(" \\")
    lines = [""]
    for word in words:
        # A word that is too long goes on in the first column of the next line.
        *first, last = _quoted_parts(word, room)
        between = " " if lines[-1] else ""
        if len(lines[-1]) + len(between) + len([*first, last][0]) > room:
            lines[-1] += " \\"
            lines.append("")
            between = ""
        for part in first:
            lines[-1] += f"{between}{part}\\"
            lines.append("")
            between = ""
        lines[-1] += f"{between}{last}"
    return lines


def _quoted_parts(word: str, room: int) -> list[str]:
    """Return a word as a shell takes it, in parts of which none is too long: quotes take room."""
    step = room
    while True:
        parts = [word[at : at + step] for at in range(0, len(word), step)] or [""]
        quoted = [shlex.quote(part) for part in parts]
        if max(map(len, quoted)) <= room:
            return quoted
        step = step * 2 // 3


def _facts(report: Report) -> Iterator[str]:
    def fact(name: str, text: str) -> list[str]:
        label = f"{name:<{_LABEL}}"
        return _wrapped(text, first=label, rest=" " * _LABEL)

    yield from fact("tree", report.tree)
    yield from fact("base", report.base)
    yield from fact("patched", report.patched)
    for number, subject in enumerate(report.series, start=1):
        yield from _wrapped(f"{number}. {subject}", first=" " * _LABEL, rest=" " * (_LABEL + 3))
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
    shown = [line for text in listed[:LISTED] for line in _wrapped(text, first="  ", rest="    ")]
    more = [f"  and {len(listed) - LISTED} more"] * (len(listed) > LISTED)
    return [*_wrapped(f"{title}: {count(listed, 'test')}"), *shown, *more, ""]


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
        for line in _wrapped(cost_line(cost), first="  ", rest="    ")
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
        lines += _wrapped(f"{item.candidate.title}: {said}", first="  ", rest="    ")
    return [*lines, ""]


def _quoted(text: str) -> list[str]:
    lines = [
        part
        for line in text.rstrip().splitlines()
        for part in _wrapped(line, first="  | ", rest="  |   ")
    ]
    return lines if len(lines) <= EVIDENCE_LINES else [*lines[: EVIDENCE_LINES - 1], "  | ..."]


def _wrapped(text: str, *, first: str = "", rest: str = "  ") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )
