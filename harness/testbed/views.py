"""What the guest reports, in the terms of the audit. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from harness.guest.facts import Interrupt, Level, MachineInterrupt
from harness.remapping.audit import GuestInterrupt
from harness.remapping.linux import entry_index, source_id

# How Linux names a VT-d unit's domain (drivers/iommu/intel/irq_remapping.c): INTEL-IR-0, in newer
# kernels with the bus token behind it. INTEL-IR-MSI-0 is the PCI/MSI domain on top of it in 6.1.
_REMAPPING_DOMAIN: Final = re.compile(r"INTEL-IR-\d+(-\d+)?")


def remapping_level(interrupt: MachineInterrupt) -> Level | None:
    """Return the level of an interrupt's hierarchy that is behind remapping, None without."""
    for level in interrupt.levels:
        if _REMAPPING_DOMAIN.fullmatch(level.domain):
            return level
    return None


def guest_interrupts(
    machine: Sequence[MachineInterrupt], own: Iterable[Interrupt], requester_id: int
) -> list[GuestInterrupt]:
    """Return every interrupt of the guest for the audit.

    :param machine: all interrupts of the machine.
    :param own: those of the audited function, whose requester id is given.
    """
    by_virq = {interrupt.virq: interrupt for interrupt in own}
    return [_convert(item, by_virq.get(item.virq), requester_id) for item in machine]


def _convert(item: MachineInterrupt, own: Interrupt | None, requester_id: int) -> GuestInterrupt:
    level = remapping_level(item)
    top = item.levels[0] if item.levels else None
    return GuestInterrupt(
        virq=item.virq,
        domains=item.domains,
        requested=item.started if own is None else own.requested,
        masked=item.masked if own is None else own.masked,
        handle=entry_index(level.hwirq) if level else None,
        vector=item.vector or None,
        destination=item.destination if item.vector else None,
        source_id=requester_id if own else source_id(top.chip, top.hwirq) if top else None,
        message=own.composed if own and own.requested else None,
        store=own.store if own else None,
        index=own.index if own else None,
    )
