"""Handles: numbers that come back late, and never as they were."""

from __future__ import annotations

import pytest

from harness.hypervisor.handles import GENERATION_MAX, HandleTable, generation_of, index_of


def test_a_freed_index_is_the_last_to_be_used_again() -> None:
    table = HandleTable(4)
    first = table.take(1)
    assert first is not None
    table.give_back(first, 1)
    indices = [index_of(table.take(1) or 0) for _ in range(4)]
    assert indices == [1, 2, 3, 0]


def test_each_use_of_an_index_has_a_generation_of_its_own_until_all_were_used() -> None:
    table = HandleTable(1)
    seen = []
    for _ in range(GENERATION_MAX):
        handle = table.take(1)
        assert handle is not None
        seen.append(generation_of(handle))
        table.give_back(handle, 1)
    assert sorted(seen) == list(range(1, GENERATION_MAX + 1))


def test_a_block_is_aligned_of_one_generation_and_new_to_each_of_its_indices() -> None:
    table = HandleTable(8)
    last = {}
    for _ in range(3):
        single = table.take(1)
        assert single is not None
        last[index_of(single)] = generation_of(single)
    for handle, _ in [(generation << 16 | index, 0) for index, generation in last.items()]:
        table.give_back(handle, 1)
    block = table.take(4)
    assert block is not None
    assert index_of(block) % 4 == 0
    assert generation_of(block) not in last.values()


def test_a_block_that_does_not_fit_takes_nothing() -> None:
    table = HandleTable(4)
    table.take(1)
    assert table.take(4) is None
    assert table.free == 3
    assert table.take(2) is not None


def test_giving_back_twice_is_the_hypervisors_own_bug_and_seen() -> None:
    table = HandleTable(4)
    handle = table.take(1)
    assert handle is not None
    table.give_back(handle, 1)
    with pytest.raises(AssertionError, match="twice"):
        table.give_back(handle, 1)
