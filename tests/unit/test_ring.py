"""The ring: what stays, what it holds, and marks that outlive what they point at."""

from __future__ import annotations

from harness.events.ring import ITEM_BYTES, Ring
from tests.memory_growth import memory_growth


def ring_of(*sizes: int, limit: int = 100 + 3 * ITEM_BYTES) -> Ring[str]:
    ring: Ring[str] = Ring(limit)
    for number, size in enumerate(sizes):
        ring.append(f"item {number}", size)
    return ring


def test_the_oldest_make_room_for_the_newest() -> None:
    ring = ring_of(40, 40, 20, 60)
    assert list(ring) == ["item 2", "item 3"]
    assert (ring.start, ring.end, len(ring)) == (2, 4, 2)
    assert ring.size == 80 + 2 * ITEM_BYTES


def test_one_item_that_is_too_large_stays_alone() -> None:
    ring = ring_of(40, 1000)
    assert list(ring) == ["item 1"]
    ring.append("small", 1)
    assert list(ring) == ["small"]


def test_a_mark_stays_good_when_what_it_points_at_has_gone() -> None:
    ring = ring_of(50)
    mark = ring.end
    for text in ("a", "b", "c"):
        ring.append(text, 50)
    assert ring.since(mark) == ["b", "c"]
    assert ring.since(mark + 2) == ["c"]
    assert ring.since(ring.end) == ring.since(ring.end + 5) == []


def test_it_holds_no_more_bytes_than_its_limit() -> None:
    ring: Ring[bytes] = Ring(1 << 20)
    with memory_growth() as growth:
        for size in range(4000):
            ring.append(bytes(size), size + 33)
            ring.append(bytes(0), 33)
    assert 0.9 * ring.limit < growth.bytes < 1.03 * ring.limit
