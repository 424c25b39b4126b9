"""What a bisection came to, as plain text that fits into a mail."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator
from typing import Final

from harness.bisect.history import History
from harness.bisect.search import Found, Search
from harness.bisect.tries import Tried
from harness.validate.formats.text import shell_lines

COLUMNS: Final = 74
EVIDENCE_LINES: Final = 10
_TESTS: Final = 5
"""How many failing tests are named."""


def report(found: Found, search: Search, history: History, repeat: str) -> str:
    """Return the report of a search that has ended.

    :param repeat: the command that was given.
    """
    parts = [
        *_headline(found, search, history),
        "\nWhat fails\n",
        *_failing(found),
        *(_evidence(search.failure(found.candidates[0])) if found.sure else ()),
        "\nWhat was tried\n",
        *_steps(found, search, history),
        "\nRepeat all of it\n",
        *shell_lines(shlex.split(repeat)),
    ]
    return "\n".join(parts) + "\n"


def _headline(found: Found, search: Search, history: History) -> Iterator[str]:
    if len(found.candidates) > 1:
        yield "The first bad commit is one of these; those between cannot be tested:\n"
        for commit in found.candidates:
            yield _line(f"    {commit[:12]}  {history.subject(commit)}")
        return
    (culprit,) = found.candidates
    yield "The first bad commit:\n"
    described = history.describe(culprit).rstrip()
    yield from (_line(f"    {line}".rstrip()) for line in described.splitlines())
    failed, _ = search.record(culprit)
    yield f"\nIt fails in {failed} runs."
    for parent in history.parents(culprit):
        passed, note = search.record(parent)
        words = f"The commit before it, {parent[:12]}, fails in {passed}"
        yield _line(f"{words}{f' ({note})' if note else ''}.")
    if found.sure:
        yield (
            f"That it is this one is {_percent(found.sure)} sure: kernels that have the fault "
            f"show it in\n{search.rate} runs."
        )
    else:
        yield "Whether the fault is older is not known: what it is based on was not tested."


def _failing(found: Found) -> Iterator[str]:
    if not found.sought.boots:
        yield "    the guest does not come up"
    for test in found.sought.tests[:_TESTS]:
        yield f"    {test}"
    if (more := len(found.sought.tests) - _TESTS) > 0:
        yield f"    and {more} more"


def _evidence(tried: Tried | None) -> Iterator[str]:
    """Return the first lines of what the tests said in a failing run."""
    if tried is None:
        return
    failed = next(item for item in tried.outcomes if item.test in tried.failing)
    said = (failed.error or failed.message).splitlines()
    yield f"\nEvidence, from {tried.commit[:12]}\n"
    yield from (_line(f"    | {line}") for line in said[:EVIDENCE_LINES])
    yield f"\n    all of it: {tried.directory}"
    if line := failed.provenance.get("reproduce"):
        yield "\nRepeat that run\n"
        yield from shell_lines(shlex.split(line))


def _steps(found: Found, search: Search, history: History) -> Iterator[str]:
    for commit, mark in found.marks.items():
        rate, note = search.record(commit)
        said = f"failed {rate}" if rate.runs else ""
        about = "; ".join(filter(None, [said, " ".join(note.split())]))
        yield _line(f"    {mark:<4}  {commit[:12]}  {history.subject(commit)}")
        yield from textwrap.wrap(
            about, COLUMNS, initial_indent=" " * 10, subsequent_indent=" " * 10, max_lines=3
        )


def _percent(share: float) -> str:
    return f"{min(share, 0.999) * 100:.1f} %"


def _line(text: str) -> str:
    return text if len(text) <= COLUMNS else f"{text[: COLUMNS - 3]}..."
