"""Row G4, pure: each rule of a live IRTE is seen to be broken, and sound entries break none."""

from __future__ import annotations

import pytest

from harness.remapping.live_entries import Apic, Rule, broken_rules
from harness.spec.vtd import PostedEntry, RemappedEntry, decode_entry
from tests.unit.remapping_samples import ENTRIES

APICS = [Apic.x2apic(0, 0), Apic.x2apic(1, 1), Apic.x2apic(2, 0x23), Apic.x2apic(3, 0x1FF)]
CPUS = {0x1: 0, 0x2: 1, 0x2_0008: 2, 0x1F_8000: 3}
"""Logical destination of each to its CPU."""
SOUND = RemappedEntry(
    present=1, redirection_hint=1, destination_mode=1, destination_id=2, vector=0x31, source_id=16
)


def broken(entry: RemappedEntry | PostedEntry, cpu: int | None = None) -> list[Rule]:
    """Return the rules that one entry breaks on a machine in x2APIC mode."""
    cpus = {} if cpu is None else {7: cpu}
    return [flaw.rule for flaw in broken_rules({7: entry}, APICS, cpus, extended_mode=True)]


def test_what_a_stock_guest_has_breaks_no_rule() -> None:
    entries = {index: decode_entry(high << 64 | low) for index, (high, low) in ENTRIES.items()}
    cpus = {
        index: CPUS[entry.destination_id]
        for index, entry in entries.items()
        if isinstance(entry, RemappedEntry)
    }
    assert broken_rules(entries, APICS, cpus, extended_mode=True) == []


@pytest.mark.parametrize(("destination", "cpu"), CPUS.items())
def test_an_entry_is_followed_to_its_cpu_in_either_mode(destination: int, cpu: int) -> None:
    assert broken(SOUND.replace(destination_id=destination), cpu) == []
    physical = SOUND.replace(destination_mode=0, destination_id=APICS[cpu].apic_id)
    assert broken(physical, cpu) == []


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        (SOUND.replace(fault_disable=1), Rule.FAULT_DISABLED),
        (SOUND.replace(redirection_hint=0), Rule.REDIRECTION_HINT),
        (RemappedEntry.unpack(SOUND.value | 1 << 127), Rule.RESERVED_BITS),
        (RemappedEntry.unpack(SOUND.value | 1 << 24), Rule.RESERVED_BITS),
        (PostedEntry(present=1, mode=1, vector=0x31), Rule.POSTED),
        (SOUND.replace(destination_id=0x10), Rule.NO_CPU),
        (SOUND.replace(destination_id=0x1_0002), Rule.NO_CPU),
        (SOUND.replace(destination_mode=0), Rule.NO_CPU),
        (SOUND.replace(destination_id=3), Rule.SEVERAL_CPUS),
        (SOUND.replace(destination_mode=0, destination_id=0), Rule.WRONG_CPU),
        (SOUND.replace(destination_id=0x2_0008), Rule.WRONG_CPU),
    ],
    ids=lambda value: value.name if isinstance(value, Rule) else "",
)
def test_each_rule_is_seen_broken(entry: RemappedEntry | PostedEntry, rule: Rule) -> None:
    assert broken(entry, cpu=1) == [rule]


def test_a_posted_entry_that_hides_its_faults_breaks_two_rules() -> None:
    entry = PostedEntry(present=1, mode=1, fault_disable=1, descriptor_low=1)
    assert set(broken(entry)) == {Rule.POSTED, Rule.FAULT_DISABLED}


def test_in_xapic_mode_a_destination_has_8_bits_and_the_rest_is_reserved() -> None:
    apics = [Apic(0, 0, 1), Apic(1, 1, 2)]
    for destination, expected in [(0x200, []), (0x400, [Rule.NO_CPU]), (0x1_0200, None)]:
        flaws = broken_rules(
            {7: SOUND.replace(destination_id=destination)}, apics, {7: 1}, extended_mode=False
        )
        rules = [flaw.rule for flaw in flaws]
        assert rules == ([Rule.RESERVED_BITS] if expected is None else expected)


def test_a_broken_rule_names_entry_and_sender() -> None:
    (flaw,) = broken_rules({7: SOUND}, APICS, {7: 0}, extended_mode=True)
    assert str(flaw) == (
        "wrong CPU: IRTE 7 of 00:02.0 leads to CPU 1, and the guest says 0: logical destination 0x2"
    )
