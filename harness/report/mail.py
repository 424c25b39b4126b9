"""Plain text that fits into a mail."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable
from typing import Final

WIDTH: Final = 74
"""Columns of the longest line."""
EVIDENCE_LINES: Final = 10
"""How much of what somebody else has said is quoted."""


def wrapped(text: str, *, first: str = "", rest: str = "  ") -> list[str]:
    """Return a text on lines that fit, with what stands before the first and before the others."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )


def quoted(text: str) -> list[str]:
    """Return the beginning of what somebody else has said, marked as such."""
    lines = [
        part
        for line in text.rstrip().splitlines()
        for part in wrapped(line, first="  | ", rest="  |   ")
    ]
    return lines if len(lines) <= EVIDENCE_LINES else [*lines[: EVIDENCE_LINES - 1], "  | ..."]


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
