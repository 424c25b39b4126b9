"""A ring of the newest items, bounded by the bytes that they hold and not by their number.

Whatever a guest or a client can make the harness keep goes through one of these, or is of a fixed
size and bounded number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")

ITEM_BYTES: Final = 16
"""What the ring itself needs for an item: its places in two queues."""


class Ring(Generic[T]):
    """The newest items, as many as fit into ``limit`` bytes; the newest of all always stays.

    Items are numbered from 0 in the order in which they came, so that :attr:`end` is a mark that
    stays good when older items go. Whoever shares a ring between threads locks it.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.size = 0
        """Bytes held now."""
        self.end = 0
        """Number that the next item gets: how many have come so far."""
        self._items: deque[T] = deque()
        self._sizes: deque[int] = deque()

    @property
    def start(self) -> int:
        """Number of the oldest item that is kept: how many have gone."""
        return self.end - len(self._items)

    def append(self, item: T, size: int) -> None:
        """Add an item that holds ``size`` bytes, all told; the oldest make room for it."""
        size += ITEM_BYTES
        self._items.append(item)
        self._sizes.append(size)
        self.size += size
        self.end += 1
        while self.size > self.limit and len(self._items) > 1:
            self._items.popleft()
            self.size -= self._sizes.popleft()

    def since(self, mark: int = 0) -> list[T]:
        """Return what came at or after a mark and is kept, oldest first."""
        fresh = min(max(self.end - mark, 0), len(self._items))
        newest = [item for item, _ in zip(reversed(self._items), range(fresh), strict=False)]
        return newest[::-1]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)
