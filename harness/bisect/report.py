"""What a bisection came to, as plain text that fits into a mail."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Final

from harness.bisect.history import History
from harness.bisect.search import Found, Search
from harness.bisect.tries import Tried
from harness.report.mail import quoted, shell_lines, wrapped

_TESTS: Final = 5
"""How many failing tests are named."""
_NOTE_LINES: Final = 3
"""Lines of what there is to say about a commit that was tried."""


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
            yield from _indented(f"{commit[:12]}  {history.subject(commit)}")
        return
    (culprit,) = found.candidates
    yield "The first bad commit:\n"
    for line in history.describe(culprit).rstrip().splitlines():
        yield from _indented(line) or [""]
    failed, _ = search.record(culprit)
    yield f"\nIt fails in {failed} runs."
    for parent in history.parents(culprit):
        passed, note = search.record(parent)
        words = f"The commit before it, {parent[:12]}, fails in {passed}"
        yield from wrapped(f"{words}{f' ({note})' if note else ''}.", rest="")
    if found.sure:
        yield from wrapped(
            f"That it is this one is {_percent(found.sure)} sure: kernels that have the fault "
            f"show it in {search.rate} runs.",
            rest="",
        )
    else:
        yield "Whether the fault is older is not known: what it is based on was not tested."


def _failing(found: Found) -> Iterator[str]:
    if not found.sought.boots:
        yield "    the guest does not come up"
    for test in found.sought.tests[:_TESTS]:
        yield from _indented(test)
    if (more := len(found.sought.tests) - _TESTS) > 0:
        yield f"    and {more} more"


def _evidence(tried: Tried | None) -> Iterator[str]:
    """Return the first lines of what the tests said in a failing run."""
    if tried is None:
        return
    failed = next(item for item in tried.outcomes if item.test in tried.failing)
    yield f"\nEvidence, from {tried.commit[:12]}\n"
    yield from quoted(failed.error or failed.message)
    yield ""
    yield from wrapped(f"all of it: {tried.directory}", first="  ", rest="    ")
    if line := failed.provenance.get("reproduce"):
        yield "\nRepeat that run\n"
        yield from shell_lines(shlex.split(line))


def _steps(found: Found, search: Search, history: History) -> Iterator[str]:
    for commit, mark in found.marks.items():
        rate, note = search.record(commit)
        said = f"failed {rate}" if rate.runs else ""
        about = "; ".join(filter(None, [said, " ".join(note.split())]))
        yield from _indented(f"{mark:<4}  {commit[:12]}  {history.subject(commit)}")
        yield from wrapped(about, first=" " * 10, rest=" " * 10)[:_NOTE_LINES]


def _percent(share: float) -> str:
    return f"{min(share, 0.999) * 100:.1f} %"


def _indented(text: str) -> list[str]:
    return wrapped(text, first="    ", rest="      ")
