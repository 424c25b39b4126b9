"""Handles: the host's interrupts by number, with a generation that tells a reused one apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

INDEX_BITS: Final = 16
"""A handle's low half: what the data of an MSI message can hold."""
GENERATION_MAX: Final = 1023
"""Generations go from 1 to this: what fits into a doorbell page in units of four bytes."""


def handle_of(generation: int, index: int) -> int:
    """Return the handle of an index in one of its generations."""
    return generation << INDEX_BITS | index


def index_of(handle: int) -> int:
    """Return the index of a handle."""
    return handle & (1 << INDEX_BITS) - 1


def generation_of(handle: int) -> int:
    """Return the generation of a handle."""
    return handle >> INDEX_BITS


class HandleTable:
    """Which indices are free, and the generation that each had last.

    A freed index goes to the end of the queue, so that its number comes back as late as can be. A
    block is a run of a power of two, aligned to its size, of one generation: its messages share an
    address and differ in the low bits of their data.
    """

    def __init__(self, size: int):
        if not 0 < size <= 1 << INDEX_BITS:
            raise ValueError(f"a table of {size} handles")
        self.size = size
        self._free = dict.fromkeys(range(size))  # in the order of giving out
        self._last = [0] * size

    @property
    def free(self) -> int:
        """How many indices are free."""
        return len(self._free)

    def take(self, count: int) -> int | None:
        """Return the first handle of a block of ``count``, None when there is no room for one."""
        first = next(iter(self._free), None) if count == 1 else self._free_run(count)
        if first is None:
            return None
        block = range(first, first + count)
        generation = self._next_generation(block)
        for index in block:
            del self._free[index]
            self._last[index] = generation
        return handle_of(generation, first)

    def give_back(self, handle: int, count: int) -> None:
        """Free a block that :meth:`take` gave out."""
        first = index_of(handle)
        for index in range(first, first + count):
            assert index not in self._free, f"handle {handle:#x} was given back twice"
            self._free[index] = None

    def _free_run(self, count: int) -> int | None:
        starts = range(0, self.size - count + 1, count)
        runs = (first for first in starts if self._all_free(range(first, first + count)))
        return next(runs, None)

    def _all_free(self, block: Iterable[int]) -> bool:
        return all(index in self._free for index in block)

    def _next_generation(self, block: Iterable[int]) -> int:
        used = {self._last[index] for index in block}
        generation = max(used)
        while True:
            generation = generation % GENERATION_MAX + 1
            if generation not in used:
                return generation
