# Ref: Linux kernel/kallsyms.c, s_show() (/proc/kallsyms: address, type, name, module in brackets)
"""The symbols of a running kernel and its modules."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

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


def plain_name(symbol: str) -> str:
    """Return the name in the source of what the compiler may have named ``name.constprop.0``."""
    return symbol.partition(".")[0]


class Symbols:
    """Every symbol of a kernel, by name and by address."""

    def __init__(self, symbols: Iterable[tuple[int, str, str]]):
        """:param symbols: address, type and name of each."""
        self._at: dict[int, set[str]] = defaultdict(set)
        self._functions: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for address, kind, symbol in symbols:
            self._at[address].add(symbol)
            if kind in _TEXT:
                self._functions[plain_name(symbol)].append((symbol, address))
        self._addresses = sorted(self._at)

    def functions(self, name: str) -> list[Function]:
        """Return the functions of a name in the source: several, split up or inlined, or none."""
        return [
            Function(symbol, address, self._end(address) - address)
            for symbol, address in self._functions.get(name, ())
        ]

    def names_at(self, address: int) -> frozenset[str]:
        """Return the names, as in the source, of what begins at an address."""
        return frozenset(map(plain_name, self._at.get(address, ())))

    def _end(self, address: int) -> int:
        following = bisect.bisect_right(self._addresses, address)
        return self._addresses[following] if following < len(self._addresses) else address


def parse_symbols(text: str) -> Symbols:
    """Return the symbols in the text of ``/proc/kallsyms``.

    :raises ValueError: it is not such a text, or its addresses are hidden (kptr_restrict).
    """
    fields = [line.split(maxsplit=3) for line in text.splitlines()]
    symbols = [(int(address, 16), kind, name) for address, kind, name, *_ in fields]
    if not any(address for address, _, _ in symbols):
        raise ValueError("the kernel hides the addresses of its symbols")
    return Symbols(symbols)
