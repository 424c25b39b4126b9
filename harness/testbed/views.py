"""What the guest reports, in the terms of the audit. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Final

from harness.devices.virte_function.function import VirteFunction
from harness.guest.facts import Interrupt, Level, MachineInterrupt
from harness.hypervisor.entry import Route
from harness.remapping.audit import GuestInterrupt
from harness.remapping.handle_audit import HandleView
from harness.remapping.linux import REMAPPING_CHIPS, entry_index, source_id
from harness.spec.interrupt import InterruptName
from harness.spec.pci import RequesterId
from harness.spec.vtd import SourceValidation

IO_APIC_CHIP: Final = "IR-IO-APIC"
IO_APIC_SOURCE: Final = RequesterId.of(0xFF)
"""Requester id of the IO/APIC on q35 (QEMU hw/i386/intel_iommu.c, Q35_PSEUDO_BUS_PLATFORM)."""


def remapping_level(interrupt: MachineInterrupt) -> Level | None:
    """Return the level of an interrupt's hierarchy that is the remapping unit, None without."""
    return next((level for level in interrupt.levels if level.chip in REMAPPING_CHIPS), None)


def guest_interrupts(
    machine: Sequence[MachineInterrupt],
    own: Iterable[Interrupt] = (),
    requester_id: RequesterId | None = None,
    *,
    conventional: Collection[int] = (),
) -> list[GuestInterrupt]:
    """Return every interrupt of the guest for the audit.

    :param machine: all interrupts of the machine.
    :param own: those of the audited function, whose requester id is given.
    :param conventional: numbers of the buses behind PCI Express to PCI bridges. Such a bridge puts
        an id of that bus on what comes from there (PCI Express to PCI/PCI-X Bridge 1.0, 2.3): an
        IRTE can tell the bus and no more.
    """
    by_virq = {interrupt.virq: interrupt for interrupt in own}
    found = [_convert(item, by_virq.get(item.virq), requester_id) for item in machine]
    return [
        replace(item, source_id=bus_range(sender.bus), source_validation=SourceValidation.BUS_RANGE)
        if (sender := item.source_id) is not None and sender.bus in conventional
        else item
        for item in found
    ]


def bus_range(bus: int) -> RequesterId:
    """Return the SID of an IRTE that admits one bus: the first bus and the last."""
    return RequesterId(bus << 8 | bus)


def entry_cpus(machine: Sequence[MachineInterrupt]) -> dict[int, int]:
    """Return the CPU to which each IRTE leads as the guest has it, by index."""
    return {
        entry_index(level.hwirq): item.cpu
        for item in machine
        if item.activated and item.cpu >= 0 and (level := remapping_level(item))
    }


def handles_of(doors: Iterable[VirteFunction], requester_id: RequesterId) -> list[HandleView]:
    """Return what the hypervisors of a machine hold for one function, and have handed out.

    An interrupt of the host's that is still starting is not among it: a guest that was told to come
    back for it, and does not, has nothing to do with it (docs/virte.md, "Map").
    """
    return [
        HandleView(
            handle=entry.handle,
            interrupt=InterruptName(entry.name.store, entry.name.index),
            pair=door.partition.message(entry),
            destination=entry.route.destination if isinstance(entry.route, Route) else None,
            vector=entry.route.vector if isinstance(entry.route, Route) else None,
        )
        for door in doors
        for entry in door.partition.entries()
        if entry.ready and entry.source.origin.requester == requester_id
    ]


def _convert(
    item: MachineInterrupt, own: Interrupt | None, requester_id: RequesterId | None
) -> GuestInterrupt:
    level = remapping_level(item)
    return GuestInterrupt(
        virq=item.virq,
        domains=item.domains,
        requested=own.requested if own else item.started and item.activated,
        masked=own.masked if own else item.masked,
        handle=entry_index(level.hwirq) if level else None,
        vector=item.vector or None,
        destination=item.destination if item.vector else None,
        source_id=requester_id if own else _sender(item),
        message=own.composed if own and own.requested else None,
        name=own.name if own else None,
    )


def _sender(item: MachineInterrupt) -> RequesterId | None:
    """Return the requester id of another device's interrupt, None where Linux does not tell."""
    if not item.levels:
        return None
    top = item.levels[0]
    return IO_APIC_SOURCE if top.chip == IO_APIC_CHIP else source_id(top.chip, top.hwirq)
