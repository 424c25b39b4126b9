"""Places in kernel text, found by name and by what stands there, never by an offset.

A compiler inlines a function here and not there, and picks other registers each time. So a place
names every function that it may have ended up in, and what is looked for is a call by its name, or
an instruction by a pattern of its text (Intel syntax, registers left open).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.faults.code import Kind, Line

Match = Callable[[Line], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Lines of some functions: all that match, or the next one behind each that is an anchor."""

    description: str
    within: tuple[str, ...]
    """Names in the source; those that a kernel has are searched, one is enough."""
    match: Match = field(repr=False)
    behind: Match | None = field(default=None, repr=False)
    """The anchor; None: every line that matches."""

    def find(self, lines: Sequence[Line]) -> list[Line]:
        """Return the lines of the place in one function."""
        if self.behind is None:
            return [line for line in lines if self.match(line)]
        found: list[Line] = []
        armed = False
        for line in lines:
            if armed and self.match(line):
                found.append(line)
                armed = False
            elif self.behind(line):
                armed = True
        return found

    def __str__(self) -> str:
        return f"{self.description} in {' or '.join(self.within)}"


def entry_of(*functions: str) -> Place:
    """Return the place where functions begin."""
    return Place(
        description="the entry", within=functions, match=lambda line: line.kind is Kind.ENTRY
    )


def call_of(*callees: str, within: str | Sequence[str], behind: str | None = None) -> Place:
    """Return the calls, tail calls included, of any of these functions.

    :param behind: as of :func:`instruction`.
    """
    wanted = frozenset(callees)
    return Place(
        description=f"the call of {' or '.join(callees)}",
        within=_names(within),
        match=lambda line: bool(line.targets & wanted),
        behind=_pattern(behind),
    )


def instruction(pattern: str, *, within: str | Sequence[str], behind: str | None = None) -> Place:
    r"""Return the instructions whose text matches.

    :param pattern: of the whole text, as ``or byte ptr \[\w+ \+ 0x1[08]\], 8``.
    :param behind: pattern of an anchor, an instruction or the name of a function that is called:
        only the first instruction behind each anchor is meant.
    """
    match = _pattern(pattern)
    assert match is not None
    anchored = f" behind {behind}" if behind else ""
    return Place(
        description=f"{pattern}{anchored}",
        within=_names(within),
        match=match,
        behind=_pattern(behind),
    )


def _names(within: str | Sequence[str]) -> tuple[str, ...]:
    return (within,) if isinstance(within, str) else tuple(within)


def _pattern(pattern: str | None) -> Match | None:
    if pattern is None:
        return None
    compiled = re.compile(pattern)
    return lambda line: (
        line.kind is not Kind.ENTRY
        and (compiled.fullmatch(line.text) is not None or pattern in line.targets)
    )
