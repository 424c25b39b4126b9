"""The interrupt entry cache: what a unit may still use although software has changed it."""

from __future__ import annotations

import pytest

from harness.remapping.entry_cache import EntryCache
from harness.spec.vtd import ENTRY_SIZE, RemappedEntry

ENTRIES = 512
OLD = RemappedEntry(present=1, vector=0x31, destination_id=1, source_id=0x100)
NEW = OLD.replace(vector=0x41, destination_id=2)
ABSENT = RemappedEntry()


def table(**entries: RemappedEntry) -> bytes:
    """Return a table with OLD at 7 and 300, but for the entries given as ``at7=...``."""
    raw = bytearray(ENTRIES * ENTRY_SIZE)
    named = {7: OLD, 300: OLD} | {int(name[2:]): entry for name, entry in entries.items()}
    for index, entry in named.items():
        raw[index * ENTRY_SIZE : (index + 1) * ENTRY_SIZE] = entry.pack()
    return bytes(raw)


def stale(cache: EntryCache, **entries: RemappedEntry) -> list[int]:
    """Look at a table, and return which entries of it are used as they were."""
    return [entry.index for entry in cache.stale(table(**entries))]


@pytest.fixture(params=[False, True], ids=["absent not cached", "absent cached"])
def cache(request: pytest.FixtureRequest) -> EntryCache:
    cache = EntryCache(absent=request.param)
    cache.observe(table())
    return cache


def test_what_did_not_change_is_not_stale(cache: EntryCache) -> None:
    assert stale(cache) == []


@pytest.mark.parametrize("entry", [NEW, ABSENT], ids=["changed", "freed"])
def test_an_entry_is_stale_until_its_invalidation_has_completed(
    cache: EntryCache, entry: RemappedEntry
) -> None:
    (finding,) = cache.stale(table(at7=entry))
    assert (finding.index, finding.cached, finding.current) == (7, OLD, entry)
    assert not finding.requested
    cache.invalidate(7, 0)
    (finding,) = cache.stale(table(at7=entry))
    assert finding.requested
    cache.complete()
    assert stale(cache, at7=entry) == []


@pytest.mark.parametrize(
    ("index", "mask", "covered"),
    [(6, 0, False), (6, 1, True), (8, 3, False), (0, 3, True), (0, 31, True), (0xFFFF, 0, False)],
)
def test_an_invalidation_covers_its_range_and_no_more(
    cache: EntryCache, index: int, mask: int, covered: bool
) -> None:
    cache.invalidate(index, mask)
    cache.complete()
    assert stale(cache, at7=NEW) == ([] if covered else [7])


def test_a_global_invalidation_covers_all(cache: EntryCache) -> None:
    cache.invalidate_all()
    cache.complete()
    assert stale(cache, at7=NEW, at300=ABSENT) == []


def test_an_invalidation_ahead_of_the_change_is_for_nothing(cache: EntryCache) -> None:
    cache.invalidate(7, 0)
    cache.complete()
    assert cache.fetch(7, OLD.pack) == OLD.pack()
    assert stale(cache, at7=NEW) == [7]


def test_a_stale_entry_stays_so_however_often_it_is_looked_at(cache: EntryCache) -> None:
    for entry in (NEW, ABSENT):
        cache.observe(table(at7=entry))
        assert stale(cache, at7=entry) == [7]
    assert cache.fetch(7, ABSENT.pack) == OLD.pack()
    cache.observe(table())
    assert stale(cache) == []


def test_under_caching_mode_an_entry_that_was_absent_is_cached_too() -> None:
    for absent in (False, True):
        cache = EntryCache(absent=absent)
        cache.observe(table())
        assert stale(cache, at8=OLD) == ([8] if absent else [])
        cache = EntryCache(absent=absent)
        cache.fetch(8, ABSENT.pack)
        assert cache.fetch(8, OLD.pack) == (ABSENT if absent else OLD).pack()


def test_nothing_is_stale_after_reset(cache: EntryCache) -> None:
    cache.clear()
    assert stale(cache, at7=NEW) == []


def test_a_table_of_another_size_is_compared_as_far_as_it_goes(cache: EntryCache) -> None:
    small = table(at7=NEW)[: 8 * ENTRY_SIZE]
    cache.observe(small)
    assert [entry.index for entry in cache.stale(small)] == [7]
    cache.observe(table() + bytes(4096))
    assert stale(cache) == []


def test_a_finding_names_what_was_and_what_is(cache: EntryCache) -> None:
    (finding,) = cache.stale(table(at300=ABSENT))
    assert str(finding).startswith("IRTE 300 was freed and nobody invalidated it: it was <Remapped")
    cache.invalidate(300, 0)
    (finding,) = cache.stale(table(at300=NEW))
    assert "IRTE 300 was changed and nobody waited for its invalidation" in str(finding)
