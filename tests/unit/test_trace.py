"""QEMU's log of trapped accesses, as QEMU 11.1 writes it."""

from __future__ import annotations

import time

from harness.events.clock import ClockTie
from harness.events.stream import Stream
from harness.qemu.trace import (
    MAPPED,
    MSIX_TABLE,
    EmulatedAccess,
    TraceLine,
    TrappedAccesses,
    parse,
)

AT = "2026-11-28T05:15:00."
"""The time as QEMU 11.1 writes it; one line has it as QEMU 10 did, one has none."""
LOG = (
    f"{AT}653121Z memory_region_ops_write cpu 1 mr 0x55e4b3 addr 0xfe410000"
    " value 0xfee002b8 size 4 name 'msix-table'\n"
    f"{AT}653122Z memory_region_ops_write cpu -1 mr 0x55c2f6e8 addr 0xfee00318"
    " value 0x0 size 4 name 'vtd-ir'\n"
    "qemu: something else\n"
    f"{AT}653130Z vtd_reset_exit \n"
    "77@1795842900.653140:memory_region_ops_read cpu 0 mr 0x55e4b320 addr 0xfe41000c"
    " value 0x1 size 4 name 'msix-table'\n"
    "memory_region_ops_read cpu 0 mr 0x5 addr 0xfe0"
    " value 0x0 size 2 name 'vfio-user:/proc/8/fd/15 BAR 4'\n"
    f"{AT}653150Z memory_region_ram_device_read cpu 1 mr 0x5 addr 0x10 value 0x7 size 4\n"
)
SECOND = 1795842900 * 10**9
"""Of those lines, by the wall clock."""
CLOCK = ClockTie(offset=SECOND, error=0)


def parsed() -> list[EmulatedAccess | TraceLine]:
    return list(parse(LOG, CLOCK))


def test_events_are_parsed_in_order_with_their_time() -> None:
    events = parsed()
    assert events[:2] == [
        EmulatedAccess(653_121_000, "qemu", True, 1, 0xFE410000, 0xFEE002B8, 4, "msix-table"),
        EmulatedAccess(653_122_000, "qemu", True, -1, 0xFEE00318, 0, 4, "vtd-ir"),
    ]
    assert events[2] == TraceLine(653_130_000, "qemu", "vtd_reset_exit", "")
    assert events[3] == EmulatedAccess(
        653_140_000, "qemu", False, 0, 0xFE41000C, 1, 4, "msix-table"
    )
    assert len(events) == 6


def test_a_region_name_may_have_blanks_and_that_of_a_mapped_one_is_ours() -> None:
    regions = [event.region for event in parsed() if isinstance(event, EmulatedAccess)]
    assert regions[-2:] == ["vfio-user:/proc/8/fd/15 BAR 4", MAPPED]


def test_the_guests_accesses_are_those_of_a_cpu() -> None:
    stream = Stream()
    trapped = TrappedAccesses(stream, stream.mark())
    for event in parsed():
        stream.write(event)
    assert trapped.count(MSIX_TABLE) == 2
    assert trapped.count(MSIX_TABLE, within=range(0xFE41000C, 0xFE410010)) == 1
    assert trapped.count("vtd-ir") == 0
    assert trapped.count("no such region") == 0


def test_another_clock_is_tied_to_ours_within_half_a_round_trip() -> None:
    tie = ClockTie.measure(lambda: time.monotonic_ns() + 1_000_000_000, rounds=5)
    assert abs(tie.offset - 1_000_000_000) <= tie.error < 10_000_000
    assert tie.ours(5_000_000_000 + tie.offset) == 5_000_000_000
