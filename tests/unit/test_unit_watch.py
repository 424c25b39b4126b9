"""The unit and its entry cache, followed through QEMU's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.qemu.trace import LogTail
from harness.testbed.unit_watch import UnitWatch
from tests.unit.remapping_samples import ENTRIES, TABLE, Memory, unit


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "trace.log"


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def watch(log: Path, memory: Memory) -> UnitWatch:
    return UnitWatch(unit(), memory, LogTail(log))


def note(log: Path, *lines: str) -> None:
    with log.open("a") as file:
        file.writelines(lines)


def written(register: int, value: int, size: int = 4) -> str:
    return f"vtd_reg_write addr {register:#x} size {size:#x} value {value:#x}\n"


def test_nothing_logged_is_nothing_changed(watch: UnitWatch) -> None:
    assert watch.state() == unit()


def test_a_table_is_taken_over_at_its_command_and_not_before(log: Path, watch: UnitWatch) -> None:
    note(log, written(0xB8, 0x5000_0801, 8))
    assert watch.state().table.address == TABLE
    note(log, written(0x18, 0x0300_0000))
    table = watch.state().table
    assert (table.address, table.entries, table.extended_mode) == (0x5000_0000, 4, 1)


def test_an_address_may_be_written_in_halves(log: Path, watch: UnitWatch) -> None:
    note(log, written(0xBC, 0x1), written(0xB8, 0x2000_000F), written(0x18, 0x0300_0000))
    assert watch.state().table.address == 0x1_2000_0000
    assert not watch.state().extended_mode


def test_remapping_goes_off_and_on(log: Path, watch: UnitWatch) -> None:
    note(log, written(0x18, 0x0400_0000))
    assert not watch.state().remapping_enabled
    note(log, written(0x18, 0x0600_0000))
    assert watch.state().remapping_enabled
    assert watch.state().table.address == TABLE


def test_a_reset_turns_remapping_off(log: Path, watch: UnitWatch) -> None:
    note(log, "vtd_reset_exit \n")
    assert not watch.state().remapping_enabled


def test_other_registers_and_other_lines_change_nothing(log: Path, watch: UnitWatch) -> None:
    note(log, written(0x88, 0x760), "memory_region_ops_write cpu 1 mr 0x55e4b3 addr 0xb8 value 0\n")
    assert watch.state() == unit()


def test_half_a_line_is_left_until_it_is_whole(log: Path, watch: UnitWatch) -> None:
    line = written(0x18, 0)
    note(log, line[:20])
    assert watch.state().remapping_enabled
    note(log, line[20:])
    assert not watch.state().remapping_enabled


def invalidation(index: int, mask: int = 0, *, selective: bool = True) -> str:
    return f"vtd_inv_desc_iec granularity {selective:#x} index {index:#x} mask {mask:#x}\n"


WAIT = "vtd_inv_desc_wait_sw wait invalidate status write addr 0x1034a8 data 0x2\n"


def test_an_entry_that_was_left_stale_is_used_as_it_was_until_its_invalidation_has_completed(
    log: Path, watch: UnitWatch, memory: Memory
) -> None:
    old = watch.entry(18).cached
    memory.put(18, ENTRIES[19])
    new = watch.entry(18).current
    # An invalidation may be on its way: until an operation has returned, either may be used.
    assert watch.entry(18) == (watch.state(), new, new)
    watch.stale_entries()
    assert watch.entry(18) == (watch.state(), old, new)
    note(log, invalidation(17), WAIT, invalidation(18))
    assert watch.entry(18).cached == old
    note(log, WAIT)
    assert watch.entry(18).cached == new
    memory.put(18, ENTRIES[20])  # what it was left as once, and is not any more
    newest = watch.entry(18).current
    assert newest != new
    assert watch.entry(18).cached == newest


@pytest.mark.parametrize(
    "line", [invalidation(0, selective=False), invalidation(19, mask=1)], ids=["global", "range"]
)
def test_a_wider_invalidation_covers_an_entry(
    log: Path, watch: UnitWatch, memory: Memory, line: str
) -> None:
    watch.stale_entries()
    memory.put(18, ENTRIES[19])
    assert [entry.index for entry in watch.stale_entries()] == [18]
    note(log, line, WAIT)
    assert watch.stale_entries() == []


def test_a_reset_empties_the_cache(log: Path, watch: UnitWatch, memory: Memory) -> None:
    watch.stale_entries()
    memory.put(18, None)
    note(log, "vtd_reset_exit \n", written(0xB8, TABLE | 0x80F, 8), written(0x18, 0x0300_0000))
    assert watch.stale_entries() == []


def test_without_remapping_no_entry_is_used(log: Path, watch: UnitWatch, memory: Memory) -> None:
    watch.stale_entries()
    memory.put(18, None)
    note(log, written(0x18, 0))
    assert watch.stale_entries() == []


def test_an_entry_outside_the_table_is_an_error(watch: UnitWatch) -> None:
    with pytest.raises(OSError, match="no IRTE 65536 in a table of 65536"):
        watch.entry(0x10000)
