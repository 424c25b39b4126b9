# Ref: Linux kernel/kallsyms.c, s_show() (/proc/kallsyms: address, type, name, module in brackets)
"""The symbols of a running kernel and its modules."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

PATH: Final = "/proc/kallsyms"

_TEXT: Final = frozenset("tTwW")


@dataclass(frozen=True, slots=True)
class Function:
    """A function, or the part of one that the compiler has split off."""

    symbol: str
    """As the compiler left it: ``modify_irte.isra.0``."""
    address: int
    size: int
    """To the next symbol."""


class _Line(NamedTuple):
    address: int
    kind: str
    symbol: str
    of_module: bool
    end: int
    """Where in the text."""


def plain_name(symbol: str) -> str:
    """Return the name in the source of what the compiler may have named ``name.constprop.0``."""
    return symbol.partition(".")[0]


class Symbols:
    """Every symbol of a kernel, by name and by address.

    There are some 200,000, and a few are asked for: the text is searched as it is.

    :param text: of ``/proc/kallsyms``: the kernel's own in order, those of modules behind them.
    """

    def __init__(self, text: str):
        self._text = f"\n{text}\n"

    def functions(self, name: str) -> list[Function]:
        """Return the functions of a name in the source: several, split up or inlined, or none."""
        found = []
        for at in self._occurrences(f" {name}"):
            line = self._line(at)
            if line.kind in _TEXT and plain_name(line.symbol) == name:
                found.append(Function(line.symbol, line.address, self._end(line) - line.address))
        return found

    def names_at(self, address: int) -> frozenset[str]:
        """Return the names, as in the source, of what begins at an address."""
        lines = map(self._line, self._occurrences(f"\n{address:016x} "))
        return frozenset(plain_name(line.symbol) for line in lines)

    def _occurrences(self, what: str) -> Iterator[int]:
        at = -1
        while (at := self._text.find(what, at + 1)) >= 0:
            yield at + 1

    def _line(self, at: int) -> _Line:
        begin, end = self._text.rindex("\n", 0, at) + 1, self._text.index("\n", at)
        address, kind, symbol, *module = self._text[begin:end].split()
        return _Line(int(address, 16), kind, symbol, bool(module), end)

    def _end(self, line: _Line) -> int:
        if line.of_module:
            following = [at for at in self._module_addresses if at > line.address]
            return min(following, default=line.address)
        end = line.end
        while end + 1 < len(self._text):
            following_line = self._line(end + 1)
            if following_line.address > line.address:
                return following_line.address
            end = following_line.end
        return line.address

    @functools.cached_property
    def _module_addresses(self) -> list[int]:
        return [self._line(at).address for at in self._occurrences("\t[")]


def parse_symbols(text: str) -> Symbols:
    """Return the symbols in the text of ``/proc/kallsyms``.

    :raises ValueError: it is not such a text, or its addresses are hidden (kptr_restrict).
    """
    if not re.search(r"^(?!0+ )[0-9a-f]+ \S \S", text, re.MULTILINE):
        raise ValueError("the kernel hides the addresses of its symbols")
    return Symbols(text)
