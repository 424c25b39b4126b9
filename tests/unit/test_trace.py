"""QEMU's log of trapped accesses, as QEMU 11.1 writes it."""

from __future__ import annotations

from harness.qemu.trace import MSIX_TABLE, Access, TrappedAccesses, parse

LOG = """\
memory_region_ops_write cpu 1 mr 0x55e4b3 addr 0xfe410000 value 0xfee002b8 size 4 name 'msix-table'
memory_region_ops_write cpu -1 mr 0x55c2f6e8 addr 0xfee00318 value 0x0 size 4 name 'vtd-ir'
qemu: something else
memory_region_ops_read cpu 0 mr 0x55e4b320 addr 0xfe41000c value 0x1 size 4 name 'msix-table'
memory_region_ops_read cpu 0 mr 0x5 addr 0xfe0 value 0x0 size 2 name 'vfio-user:/proc/8/fd/15 BAR 4'
"""
BAR = "vfio-user:/proc/8/fd/15 BAR 4"


def test_accesses_are_parsed_in_order() -> None:
    assert parse(LOG)[::2] == [
        Access(True, 1, 0xFE410000, 0xFEE002B8, 4, "msix-table"),
        Access(False, 0, 0xFE41000C, 1, 4, "msix-table"),
    ]


def test_a_region_name_may_have_blanks() -> None:
    assert parse(LOG)[-1].region == BAR


def test_an_access_of_no_cpu_is_told_apart() -> None:
    assert [access.cpu for access in parse(LOG) if access.region == "vtd-ir"] == [-1]


def test_accesses_are_counted_by_region() -> None:
    trapped = TrappedAccesses()
    trapped.accesses = parse(LOG)
    assert trapped.count(MSIX_TABLE) == 2
    assert trapped.count(MSIX_TABLE, within=range(0xFE41000C, 0xFE410010)) == 1
    assert trapped.count("no such region") == 0
    assert trapped.regions() == {"msix-table": 2, "vtd-ir": 1, BAR: 1}
