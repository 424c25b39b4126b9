"""A stream as text: one line an event, in the order of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from harness.events.stream import Event, Stream

MOST_LINES: Final = 50_000
"""Lines of a timeline: the newest."""


def timeline(stream: Stream) -> Iterator[str]:
    """Return the lines of what is kept in a stream, each with its end.

    Times are seconds since the first event, and since the one before.
    """
    events = stream.since()
    left_out = stream.gone() + max(0, len(events) - MOST_LINES)
    if left_out:
        yield f"... {left_out} older events left out ...\n"
    start = events[0].when if events else 0
    before = start
    for event in events[-MOST_LINES:]:
        yield _line(event, start, before)
        before = event.when


def _line(event: Event, start: int, before: int) -> str:
    since, step = (event.when - start) / 1e9, (event.when - before) / 1e9
    return f"{since:12.6f} {step:+10.6f} {event.source:<10} {event}\n"
