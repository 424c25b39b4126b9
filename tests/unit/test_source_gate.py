"""What remapping hardware would do to a message, and QEMU not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.qemu.trace import LogTail
from harness.remapping.translate import Fault
from harness.remapping.unit import UnitState
from harness.spec.interrupt import Store
from harness.spec.msi import CompatibilityMessage, Message, RemappableMessage
from harness.spec.pci import RequesterId
from harness.spec.vtd import FaultReason
from harness.testbed.source_gate import SourceGate
from harness.testbed.unit_watch import UnitWatch
from tests.unit.remapping_samples import ENTRIES, Memory, unit

SENDER = RequesterId.of(1)  # IRTEs 18 to 20 admit it

Entries = dict[int, tuple[int, int]]


class Gate:
    """A gate, the memory with the table that it goes by, and QEMU's log."""

    def __init__(self, log: Path, entries: Entries | None = None, state: UnitState | None = None):
        self.memory = Memory(entries)
        self._log = log
        self._watch = UnitWatch(state or unit(), self.memory, LogTail(log))
        self._gate = SourceGate(SENDER, self._watch)

    def route(self, message: Message) -> Message | Fault:
        return self._gate.route(Store.IMS, 0, message)

    def leave(self, index: int, entry: tuple[int, int] | None) -> None:
        """Change an entry, as an operation that has returned without its invalidation."""
        self.memory.put(index, entry)
        self._watch.stale_entries()

    def note(self, *lines: str) -> None:
        with self._log.open("a") as file:
            file.writelines(lines)

    def invalidate(self, index: int) -> None:
        self.note(
            f"vtd_inv_desc_iec granularity 0x1 index {index:#x} mask 0x0\n",
            "vtd_inv_desc_wait_sw wait invalidate status write addr 0x1034a8 data 0x2\n",
        )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "trace.log"


def naming(index: int) -> Message:
    return RemappableMessage(index).message()


def test_a_message_by_an_entry_that_admits_the_sender_passes(log: Path) -> None:
    assert Gate(log).route(naming(18)) == naming(18)


def test_a_message_by_another_functions_entry_is_a_fault(log: Path) -> None:
    fault = Gate(log).route(naming(16))
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
def test_what_qemu_checks_itself_is_left_to_it(log: Path, message: Message, why: str) -> None:
    assert Gate(log).route(message) == message, why


def test_a_reserved_bit_of_the_entry_is_left_to_qemu_and_a_wrong_sender_is_not(log: Path) -> None:
    high, low = ENTRIES[18]
    entries = {18: (high | 1 << 60, low), 16: (ENTRIES[16][0] | 1 << 60, ENTRIES[16][1])}
    assert Gate(log, entries).route(naming(18)) == naming(18)
    assert isinstance(Gate(log, entries).route(naming(16)), Fault)


def test_an_index_that_qemu_would_wrap_is_a_fault(log: Path) -> None:
    message = RemappableMessage(0xFFFF, 19).message()  # QEMU: entry 18
    fault = Gate(log).route(message)
    assert fault == Fault(FaultReason.INDEX_BEYOND_TABLE, SENDER, 0x10012)


def test_compatibility_format_is_a_fault_while_it_is_blocked(log: Path) -> None:
    message = CompatibilityMessage(1, 0x31).message()
    assert Gate(log).route(message) == Fault(FaultReason.COMPATIBILITY_BLOCKED, SENDER)
    assert Gate(log, state=unit({0x1C: 0})).route(message) == message


def test_a_unit_that_is_turned_off_is_seen_by_the_next_message(log: Path) -> None:
    gate = Gate(log)
    assert isinstance(gate.route(naming(16)), Fault)
    gate.note("vtd_reg_write addr 0x18 size 0x4 value 0x0\n")
    assert gate.route(naming(16)) == naming(16)


def test_an_entry_whose_invalidation_may_be_on_its_way_is_used_as_it_is(log: Path) -> None:
    gate = Gate(log)
    gate.route(naming(18))
    gate.memory.put(18, ENTRIES[19])
    assert gate.route(naming(18)) == naming(18)


def test_a_message_goes_where_the_cached_entry_leads_until_it_is_invalidated(log: Path) -> None:
    gate = Gate(log)
    assert gate.route(naming(18)) == naming(18)
    gate.leave(18, ENTRIES[19])
    # As entry 18 was: vector 23h to logical destination 2.
    stale = CompatibilityMessage(2, 0x23, logical=True, redirection_hint=True).message()
    assert [gate.route(naming(18)) for _ in range(2)] == [stale, stale]
    gate.invalidate(19)
    assert gate.route(naming(18)) == stale
    gate.invalidate(18)
    assert gate.route(naming(18)) == naming(18)


def test_an_entry_that_was_freed_and_not_invalidated_still_leads_somewhere(log: Path) -> None:
    gate = Gate(log)
    gate.route(naming(18))
    gate.leave(18, None)
    assert isinstance(gate.route(naming(18)), Message)
    assert gate.route(naming(18)) != naming(18)
    gate.invalidate(18)
    assert gate.route(naming(18)) == naming(18)  # QEMU: not present


def test_a_source_id_that_is_no_longer_cached_blocks_until_it_is_invalidated(log: Path) -> None:
    gate = Gate(log)
    blocked = Fault(FaultReason.SOURCE_ID_MISMATCH, SENDER, 16)
    assert gate.route(naming(16)) == blocked
    gate.leave(16, ENTRIES[18])
    assert gate.route(naming(16)) == blocked
    gate.invalidate(16)
    assert gate.route(naming(16)) == naming(16)


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        (0x0000_0080, CompatibilityMessage(0x80, 0x23, logical=True)),
        (0x0000_0100, CompatibilityMessage(8, 0x23)),
        (0x0003_0002, CompatibilityMessage(0x31, 0x23)),
        (0x0010_0001, None),
    ],
    ids=["low 8 of cluster 0", "high 8 of cluster 0", "another cluster", "beyond 8 bits"],
)
def test_a_cluster_destination_becomes_what_8_bits_can_name(
    log: Path, destination: int, expected: CompatibilityMessage | None
) -> None:
    high, low = ENTRIES[18]
    low = low & 0xFFFF_FFF7 | destination << 32  # without its redirection hint
    gate = Gate(log, {18: (high, low)})
    gate.route(naming(18))
    gate.leave(18, None)
    assert gate.route(naming(18)) == (expected.message() if expected else naming(18))


def test_more_messages_than_are_remembered_find_their_way(log: Path) -> None:
    gate = Gate(log)
    for subhandle in range(5000):
        gate.route(RemappableMessage(18, subhandle).message())
    assert gate.route(naming(18)) == naming(18)
