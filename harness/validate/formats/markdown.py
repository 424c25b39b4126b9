"""A report as Markdown, for a ticket or a merge request."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from harness.validate.comparison import Change, Compared
from harness.validate.report import Report


def as_markdown(report: Report) -> str:
    """Return the report."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# imsh validate: {report.headline}\n"
    facts = {
        "tree": report.tree,
        "base": report.base,
        "patched": report.patched,
        "matrix": report.matrix,
        "tests": shlex.join(report.tests),
        "first": ", ".join(report.rows),
        "guests": "; ".join(report.machines),
        "imsh": report.imsh,
        "host": report.host,
        "when": f"{report.started}, {report.seconds / 60:.1f} min",
        "results": report.directory,
    }
    yield from _table(("", ""), ((name, fact) for name, fact in facts.items() if fact))
    if report.refused:
        yield from ["## Does not apply\n", *_block(report.refused)]
    for item in report.not_built:
        yield from [f"## Does not build: {item.candidate.title}\n", *_block(item.error)]
    if report.tried:
        yield "## Patches\n"
        yield from _table(
            ("state", *Change),
            (
                (item.candidate.title, *(str(item.comparison.counts.get(c, 0)) for c in Change))
                if item.comparison
                else (item.candidate.title, "does not build")
                for item in report.tried
            ),
        )
    for test in report.broken:
        yield from _broken(report, test)
    others = [
        test for test in report.whole.tests if test.change not in (Change.SAME, Change.BROKEN)
    ]
    if others:
        yield "## What else differs\n"
        rows = ((t.change, f"`{t.test}`", str(t.base), str(t.patched), t.reason) for t in others)
        yield from _table(("", "test", "base", "patched", "why"), rows)
    if report.costs:
        yield "## Measured side by side\n"
        yield from _table(
            ("quantity", "machine", "base", "patched", "noise", ""),
            (
                (
                    cost.quantity,
                    cost.machine,
                    f"{cost.before:g}",
                    f"{cost.after:g}",
                    f"{cost.noise:g}",
                    ("worse" if cost.worse else "better") if cost.changed else "",
                )
                for cost in report.costs
            ),
        )
    yield from ["## Repeat\n", *_block(shlex.join(report.command))]


def _broken(report: Report, test: Compared) -> Iterator[str]:
    yield f"## Broken: `{test.test}`\n"
    yield f"Rows {', '.join(test.known.rows)}; base {test.base}, patched {test.patched}."
    if culprit := report.culprit(test):
        yield f"Since {culprit.candidate.title}."
    yield ""
    if failure := test.patched.failure:
        yield from _block(failure.error or failure.message)
        if line := failure.provenance.get("reproduce"):
            yield from _block(line)


def _block(text: str) -> list[str]:
    """Return text as it is: indented, so that nothing in it can end the block."""
    return [*(f"    {line}" for line in text.rstrip().splitlines()), ""]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    titles = list(head)
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * len(titles)}"
    for row in rows:
        cells = (" ".join(cell.replace("|", r"\|").split()) for cell in row)
        yield f"| {' | '.join(cells)} |"
    yield ""
