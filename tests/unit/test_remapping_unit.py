"""Reading a VT-d unit: registers, pending faults, and the table in guest memory."""

from __future__ import annotations

import pytest

from harness.remapping.unit import RemappingTable
from harness.spec.vtd import Register, RemappedEntry
from tests.unit.remapping_samples import ENTRIES, TABLE, Memory, unit


def test_a_unit_that_remaps_in_x2apic_mode_is_read_as_such() -> None:
    state = unit()
    assert state.remapping_enabled
    assert state.extended_mode
    assert state.compatibility_blocked
    assert (state.table.address, state.table.entries) == (TABLE, 65536)
    assert state.faults == ()


def test_compatibility_format_passes_only_in_xapic_mode_with_cfis_set() -> None:
    xapic = {int(Register.IRTA): TABLE | 0xF}
    assert unit(xapic).compatibility_blocked
    assert not unit({**xapic, Register.GSTS: 0x07800000}).compatibility_blocked
    assert unit({Register.GSTS: 0x07800000}).compatibility_blocked, "EIME blocks it whatever CFIS"
    assert not unit({Register.GSTS: 0}).compatibility_blocked


def test_pending_faults_are_read_from_where_the_capability_register_says() -> None:
    # CAP.FRO = 22h: the record stands at 220h.
    state = unit({0x224: 0x1234 << 16, 0x228: 0xFFFF, 0x22C: 0x8000_0022, Register.FSTS: 2})
    assert [str(record) for record in state.faults] == [
        "fault 0x22 (entry not present) from ff:1f.7 at IRTE 4660"
    ]
    assert state.fault_status.pending


def test_every_fault_record_is_looked_at_and_those_without_fault_are_left_out() -> None:
    # CAP.NFR = 1: two records; the first has been cleared by the guest. Behind them is no record.
    records = {0x22C: 0x22, 0x23C: 0x8000_0025, 0x24C: 0x8000_0026}
    state = unit({Register.CAP + 4: 0x80D2018C, Register.FSTS: 2, **records})
    assert [record.reason for record in state.faults] == [0x25]


def test_present_entries_are_found_in_the_whole_table() -> None:
    last = (0x40100, 0x000000020024000D)
    table = RemappingTable.of(unit(), Memory({**ENTRIES, 65535: last}))
    found = table.present_entries()
    assert list(found) == [*ENTRIES, 65535]
    for index, (high, low) in {**ENTRIES, 65535: last}.items():
        assert found[index].value == high << 64 | low


def test_entries_that_are_not_present_are_left_out_whatever_else_they_hold() -> None:
    table = RemappingTable.of(unit(), Memory({5: (0x40100, 0x000000020024000C), 6: (0, 1)}))
    assert list(table.present_entries()) == [6]


def test_an_entry_is_read_by_its_index() -> None:
    entry = RemappingTable.of(unit(), Memory()).read_entry(19)
    assert isinstance(entry, RemappedEntry)
    assert (entry.vector, entry.destination_id, entry.source_id) == (0x23, 1, 0x0100)


def test_an_index_beyond_the_table_is_refused() -> None:
    table = RemappingTable.of(unit({Register.IRTA: TABLE | 0x7}), Memory())
    assert table.entries == 256
    table.read_entry(0)
    table.read_entry(255)
    for index in (256, -1):
        with pytest.raises(IndexError, match="of a table of 256"):
            table.read_entry(index)
