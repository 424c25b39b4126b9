# Ref: VT-d Architecture Specification, Rev. 5.10, section 9.9 (IRTE); Intel SDM volume 3, chapter
#      "APIC": "Determining IPI Destination", "Logical Destination Mode in x2APIC Mode"; Linux
#      drivers/iommu/intel/irq_remapping.c, prepare_irte(), v6.1 to v7.2.
"""Row G4: what every present IRTE of a machine has to be, whichever device's it is.

The audit asks whether an entry says what the guest's list says, encoding against encoding. Here the
entry is followed to the processors that it would interrupt, by the registers that their APICs match
a destination with: a destination mode that is wrong leads elsewhere, or nowhere. As the audit, this
has its own idea of what is right and uses no model.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.spec.pci import RequesterId
from harness.spec.vtd import Entry, PostedEntry, RemappedEntry


class Rule(enum.StrEnum):
    """What a present IRTE breaks."""

    POSTED = "posted format"
    """IM=1, which no guest here uses: left behind, or never meant."""
    RESERVED_BITS = "reserved bits"
    """Reserved bits are set."""
    FAULT_DISABLED = "faults disabled"
    """FPD=1: a message that is blocked here leaves no record."""
    REDIRECTION_HINT = "redirection hint"
    """RH=0, where Linux sets it in every entry."""
    NO_CPU = "no CPU"
    """It leads to no online CPU."""
    SEVERAL_CPUS = "several CPUs"
    """It leads to more than one, where Linux picks one."""
    WRONG_CPU = "wrong CPU"
    """It leads to another CPU than the guest says."""


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """A rule that an IRTE breaks."""

    rule: Rule
    index: int
    sentence: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.sentence}"


@dataclass(frozen=True, slots=True)
class Apic:
    """An online CPU's local APIC, by what it recognises messages by."""

    cpu: int
    """Linux CPU number."""
    apic_id: int
    logical_id: int
    """LDR; in xAPIC mode the 8 bits of the flat model."""

    @classmethod
    def x2apic(cls, cpu: int, apic_id: int) -> Apic:
        """Return an APIC in x2APIC mode, where the logical id follows from the APIC id."""
        return cls(cpu, apic_id, apic_id >> 4 << 16 | 1 << (apic_id & 0xF))

    def is_named(self, destination: int, *, logical: bool, extended_mode: bool) -> bool:
        """Whether a destination is, or includes, this one."""
        if not logical:
            return destination == self.apic_id
        if extended_mode and (destination ^ self.logical_id) >> 16:  # another cluster
            return False
        return bool(destination & self.logical_id & (0xFFFF if extended_mode else 0xFF))


def broken_rules(
    entries: Mapping[int, Entry],
    apics: Sequence[Apic],
    cpus: Mapping[int, int],
    *,
    extended_mode: bool,
) -> list[BrokenRule]:
    """Return what is wrong with the present IRTEs, in the order of their indices.

    :param apics: of the online CPUs.
    :param cpus: CPU to which an entry leads as the guest knows it, by index; none for an entry that
        the guest does not tell about.
    """
    return [
        BrokenRule(rule, index, f"IRTE {index} of {RequesterId(entry.source_id)} {what}")
        for index, entry in sorted(entries.items())
        for rule, what in _broken(entry, apics, cpus.get(index), extended_mode=extended_mode)
    ]


def _broken(
    entry: Entry, apics: Sequence[Apic], cpu: int | None, *, extended_mode: bool
) -> Iterator[tuple[Rule, str]]:
    if entry.fault_disable:
        yield Rule.FAULT_DISABLED, "has FPD set"
    if isinstance(entry, PostedEntry):
        yield Rule.POSTED, f"posts to {entry.descriptor:#x}"
        return
    if reserved := entry.reserved_bits(extended_mode=extended_mode):
        yield Rule.RESERVED_BITS, f"has reserved bits {reserved:#x} set"
    if not entry.redirection_hint:
        yield Rule.REDIRECTION_HINT, "has RH clear"
    yield from _misled(entry, apics, cpu, extended_mode=extended_mode)


def _misled(
    entry: RemappedEntry, apics: Sequence[Apic], cpu: int | None, *, extended_mode: bool
) -> Iterator[tuple[Rule, str]]:
    logical = bool(entry.destination_mode)
    destination = entry.destination(extended_mode=extended_mode)
    reached = [
        apic.cpu
        for apic in apics
        if apic.is_named(destination, logical=logical, extended_mode=extended_mode)
    ]
    where = f"{'logical' if logical else 'physical'} destination {destination:#x}"
    if not reached:
        yield Rule.NO_CPU, f"leads to no online CPU: {where}"
    elif len(reached) > 1:
        yield Rule.SEVERAL_CPUS, f"leads to CPUs {reached}: {where}"
    elif cpu is not None and reached != [cpu]:
        yield Rule.WRONG_CPU, f"leads to CPU {reached[0]}, and the guest says {cpu}: {where}"
