"""The unit's state, followed through QEMU's log, and the check that QEMU cannot make."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.qemu.trace import TraceTail
from harness.remapping.translate import Fault
from harness.remapping.unit import UnitState
from harness.spec.interrupt import Store
from harness.spec.msi import CompatibilityMessage, Message, RemappableMessage
from harness.spec.pci import RequesterId
from harness.spec.vtd import FaultReason
from harness.testbed.source_gate import SourceGate
from harness.testbed.unit_watch import UnitWatch
from tests.unit.remapping_samples import ENTRIES, TABLE, Memory, unit

SENDER = RequesterId.of(1)  # IRTEs 18 to 20 admit it


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "trace.log"


@pytest.fixture
def watch(log: Path) -> UnitWatch:
    return UnitWatch(unit(), TraceTail(log))


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


def gate(
    state: Callable[[], UnitState] = unit, entries: dict[int, tuple[int, int]] | None = None
) -> SourceGate:
    return SourceGate(SENDER, Memory(entries), state)


def naming(index: int) -> Message:
    return RemappableMessage(index).message()


def test_a_message_by_an_entry_that_admits_the_sender_passes() -> None:
    assert gate().route(Store.IMS, 0, naming(18)) == naming(18)


def test_a_message_by_another_functions_entry_is_a_fault() -> None:
    fault = gate().route(Store.IMS, 0, naming(16))
    assert fault == Fault(FaultReason.SOURCE_ID_MISMATCH, SENDER, 16)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (dataclasses.replace(naming(18), data=0x10000), "without SHV the data means nothing"),
        (RemappableMessage(18, 0).message(), "a subhandle of 0"),
        (naming(40), "22h: not present"),
        (Message(naming(18).address | 8, 0x10000), "20h: reserved bits"),
        (Message(0x1000, 5), "no interrupt at all"),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "",
)
def test_what_qemu_checks_itself_is_left_to_it(message: Message, why: str) -> None:
    assert gate().route(Store.IMS, 0, message) == message, why


def test_a_reserved_bit_of_the_entry_is_left_to_qemu_and_a_wrong_sender_is_not() -> None:
    high, low = ENTRIES[18]
    entries = {18: (high | 1 << 60, low), 16: (ENTRIES[16][0] | 1 << 60, ENTRIES[16][1])}
    assert gate(entries=entries).route(Store.IMS, 0, naming(18)) == naming(18)
    assert isinstance(gate(entries=entries).route(Store.IMS, 0, naming(16)), Fault)


def test_an_index_that_qemu_would_wrap_is_a_fault() -> None:
    message = RemappableMessage(0xFFFF, 19).message()  # QEMU: entry 18
    fault = gate().route(Store.IMS, 0, message)
    assert fault == Fault(FaultReason.INDEX_BEYOND_TABLE, SENDER, 0x10012)


def test_compatibility_format_is_a_fault_while_it_is_blocked() -> None:
    message = CompatibilityMessage(1, 0x31).message()
    assert gate().route(Store.IMS, 0, message) == Fault(FaultReason.COMPATIBILITY_BLOCKED, SENDER)
    off = unit({0x1C: 0})
    assert gate(lambda: off).route(Store.IMS, 0, message) == message


def test_the_unit_is_asked_for_each_message(log: Path, watch: UnitWatch) -> None:
    made = gate(watch.state)
    assert isinstance(made.route(Store.IMS, 0, naming(16)), Fault)
    note(log, written(0x18, 0))
    assert made.route(Store.IMS, 0, naming(16)) == naming(16)
