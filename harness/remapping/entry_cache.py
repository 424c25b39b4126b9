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

from harness.remapping.unit import present_bits
from harness.spec.vtd import ENTRY_SIZE, Entry, decode_entry

_PAGE: Final = 4096
_INDEX_BITS: Final = 16
"""A table has up to 64K entries."""


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
        self._entries = bytearray()  # as they were cached, in the table's order
        self._cached = bytearray()  # by index: 1 where the entry is cached now
        self._requested: set[range] = set()  # indices to be invalidated

    # What software asks of the unit.

    def invalidate(self, index: int, mask: int) -> None:
        """Take note that 2^``mask`` entries are to be invalidated (IIDX and IM, G=1)."""
        mask = min(mask, _INDEX_BITS)
        first = index >> mask << mask
        self._requested.add(range(first, first + (1 << mask)))

    def invalidate_all(self) -> None:
        """Take note that every entry is to be invalidated (G=0)."""
        self._requested.add(range(1 << _INDEX_BITS))

    def complete(self) -> None:
        """Invalidate what was asked for so far: a wait descriptor has completed."""
        for entries in self._requested:
            part = slice(entries.start, entries.stop)
            self._cached[part] = bytes(len(self._cached[part]))
        self._requested.clear()

    def clear(self) -> None:
        """Forget everything, as at reset."""
        self._entries.clear()
        self._cached.clear()
        self._requested.clear()

    # What the unit does.

    def fetch(self, index: int, read: Callable[[], bytes]) -> bytes:
        """Return an entry as the unit uses it; ``read`` is asked when it is not cached.

        :raises Exception: what ``read`` raises.
        """
        if index < len(self._cached) and self._cached[index]:
            return bytes(self._entries[_place(index)])
        entry = read()
        if self._absent or present_bits(entry)[0]:
            self._make_room(index + 1)
            self._entries[_place(index)] = entry
            self._cached[index] = 1
        return entry

    def observe(self, table: bytes) -> None:
        """Cache every entry of a table that is not cached already."""
        count = len(table) // ENTRY_SIZE
        kept = {index: self._entries[_place(index)] for index in self._differing(table)}
        self._entries[: len(table)] = table
        self._cached[:count] = b"\1" * count if self._absent else present_bits(table)
        for index, entry in kept.items():
            self._entries[_place(index)] = entry
            self._cached[index] = 1

    def stale(self, table: bytes) -> list[StaleEntry]:
        """Return the cached entries that are not as the table has them, by index."""
        return [
            StaleEntry(
                index,
                decode_entry(bytes(self._entries[_place(index)])),
                decode_entry(table[_place(index)]),
                requested=any(index in entries for entries in self._requested),
            )
            for index in self._differing(table)
        ]

    def _differing(self, table: bytes) -> Iterator[int]:
        self._make_room(len(table) // ENTRY_SIZE)
        # Page by page: in a megabyte next to nothing differs.
        for page in range(0, len(table), _PAGE):
            end = min(page + _PAGE, len(table))
            if table[page:end] != self._entries[page:end]:
                for index in range(page // ENTRY_SIZE, end // ENTRY_SIZE):
                    place = _place(index)
                    if self._cached[index] and table[place] != self._entries[place]:
                        yield index

    def _make_room(self, entries: int) -> None:
        if (more := entries - len(self._cached)) > 0:
            self._entries += bytes(more * ENTRY_SIZE)
            self._cached += bytes(more)


def _place(index: int) -> slice:
    return slice(index * ENTRY_SIZE, (index + 1) * ENTRY_SIZE)
