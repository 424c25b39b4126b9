# Ref: VT-d Architecture Specification, Rev. 5.10, chapter 6: "Caching Mode", "Interrupt Entry
#      Cache", "Interrupt Entry Cache Invalidate Descriptor", "Invalidation Wait Descriptor".
"""The interrupt entry cache of a VT-d unit: IRTEs as they were when the unit last read them.

QEMU reads the IRTE anew for each message, so that a kernel which forgets to invalidate one passes.
Here an entry is kept until its invalidation has completed, which is when a wait descriptor behind
it has: what software may not rely on before, hardware need not have done.

The cache is as unkind as the specification allows. It never gives an entry up by itself; it holds
every entry that it was shown (:meth:`EntryCache.observe`), asked for or not; and under Caching Mode
it holds entries that are not present, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from harness.spec.vtd import ENTRY_SIZE, Entry, decode_entry

_PAGE: Final = 4096
_INDEX_BITS: Final = 16
_ALL: Final = range(1 << _INDEX_BITS)
"""Indices of the largest table."""


@dataclass(frozen=True, slots=True)
class StaleEntry:
    """An IRTE that was changed, or freed, and that the unit may still use as it was."""

    index: int
    cached: Entry
    """As it was when the unit read it."""
    current: Entry
    """As it stands in the table."""
    requested: bool
    """Whether its invalidation was asked for, and only its completion not waited for."""

    def __str__(self) -> str:
        change = "changed" if self.current.present else "freed"
        lack = "waited for its invalidation" if self.requested else "invalidated it"
        return (
            f"IRTE {self.index} was {change} and nobody {lack}: "
            f"it was {self.cached}, it is {self.current}"
        )


class EntryCache:
    """IRTEs by index, as the unit knows them.

    :param absent: whether entries that are not present are cached as well (CAP_REG.CM).
    """

    def __init__(self, *, absent: bool):
        self._absent = absent
        # The table when it was last observed: its entries are cached, but for those that were
        # invalidated since, and those that are cached otherwise.
        self._observed = b""
        self._invalidated: set[int] = set()
        self._others: dict[int, bytes] = {}
        self._requested: set[range] = set()  # indices to be invalidated

    # What software asks of the unit.

    def invalidate(self, index: int, mask: int) -> None:
        """Take note that 2^``mask`` entries are to be invalidated (IIDX and IM, G=1)."""
        mask = min(mask, _INDEX_BITS)
        first = index >> mask << mask
        self._requested.add(range(first, first + (1 << mask)))

    def invalidate_all(self) -> None:
        """Take note that every entry is to be invalidated (G=0)."""
        self._requested.add(_ALL)

    def complete(self) -> None:
        """Invalidate what was asked for so far: a wait descriptor has completed."""
        if _ALL in self._requested:
            self.clear()
        for entries in self._requested:
            self._invalidated.update(entries)
            for index in entries:
                self._others.pop(index, None)
        self._requested.clear()

    def clear(self) -> None:
        """Forget everything, as at reset."""
        self._observed = b""
        self._invalidated.clear()
        self._others.clear()
        self._requested.clear()

    # What the unit does.

    def fetch(self, index: int, read: Callable[[], bytes]) -> bytes:
        """Return an entry as the unit uses it; ``read`` is asked when it is not cached.

        :raises Exception: what ``read`` raises.
        """
        if (entry := self._cached(index)) is None:
            entry = read()
            if self._may_hold(entry):
                self._others[index] = entry
        return entry

    def holds(self, index: int) -> bool:
        """Return whether an entry is cached."""
        return self._cached(index) is not None

    def observe(self, table: bytes) -> None:
        """Cache every entry of a table that is not cached already."""
        for index in _differences(self._observed, table):
            if (entry := self._cached(index)) is not None:
                self._others[index] = entry
        self._others = {
            index: entry for index, entry in self._others.items() if entry != table[_place(index)]
        }
        self._observed = table
        self._invalidated.clear()

    def stale(self, table: bytes) -> list[StaleEntry]:
        """Return the cached entries that are not as the table has them, by index."""
        found = []
        for index in sorted({*self._others, *_differences(self._observed, table)}):
            cached, current = self._cached(index), table[_place(index)]
            if current and cached is not None and cached != current:
                requested = any(index in entries for entries in self._requested)
                found.append(
                    StaleEntry(index, decode_entry(cached), decode_entry(current), requested)
                )
        return found

    def _cached(self, index: int) -> bytes | None:
        if (entry := self._others.get(index)) is not None:
            return entry
        if index in self._invalidated:
            return None
        entry = self._observed[_place(index)]
        return entry if entry and self._may_hold(entry) else None

    def _may_hold(self, entry: bytes) -> bool:
        return self._absent or bool(entry[0] & 1)  # P


def _differences(old: bytes, new: bytes) -> Iterator[int]:
    """Yield the indices that both tables have and at which they differ.

    They are compared page by page: next to nothing differs.
    """
    if old == new:
        return
    common = min(len(old), len(new))
    for page in range(0, common, _PAGE):
        end = min(page + _PAGE, common)
        if old[page:end] != new[page:end]:
            for index in range(page // ENTRY_SIZE, end // ENTRY_SIZE):
                if old[_place(index)] != new[_place(index)]:
                    yield index


def _place(index: int) -> slice:
    return slice(index * ENTRY_SIZE, (index + 1) * ENTRY_SIZE)
