# Ref: VT-d Architecture Specification, Rev. 5.10: section 5.1.4 "Interrupt-Remapping Hardware
#      Operation", table 15 (faults), section 5.2.3 (posting).
"""What a VT-d unit makes of an interrupt message: a delivered interrupt, or a fault.

The checks come in the specification's order, so that a message that is wrong in two ways faults for
the reason that hardware would record. QEMU 11.1 differs in places: it looks at reserved bits before
the source id, computes the index in 16 bits, and passes compatibility-format messages through. And
it cannot check the source id of a message that comes over vfio-user, which carries none: that check
is made here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.remapping.unit import UnitState
from harness.spec.msi import CompatibilityMessage, DeliveryMode, Message, RemappableMessage
from harness.spec.pci import RequesterId
from harness.spec.vtd import (
    QUALIFIED_REASONS,
    QUALIFIER_MASK,
    Entry,
    FaultReason,
    PostedEntry,
    RemappedEntry,
    SourceValidation,
    reason_name,
)


@dataclass(frozen=True, slots=True)
class Delivered:
    """An interrupt that reaches a processor."""

    vector: int
    destination: int
    """APIC id, or logical destination if ``logical``."""
    delivery_mode: int
    logical: bool
    redirection_hint: bool
    level: bool
    index: int | None
    """The IRTE that it came through; None for a compatibility-format message."""

    def __str__(self) -> str:
        route = "unremapped" if self.index is None else f"by IRTE {self.index}"
        kind = "logical destination" if self.logical else "APIC id"
        return f"vector {self.vector:#x} to {kind} {self.destination:#x} {route}"


@dataclass(frozen=True, slots=True)
class Posted:
    """An interrupt that is recorded in a Posted Interrupt Descriptor."""

    vector: int
    descriptor: int
    """Physical address of the descriptor."""
    urgent: bool
    index: int

    def __str__(self) -> str:
        return f"vector {self.vector:#x} posted to {self.descriptor:#x} by IRTE {self.index}"


@dataclass(frozen=True, slots=True)
class Fault:
    """A message that was blocked."""

    reason: FaultReason
    source_id: RequesterId
    index: int | None = None
    """interrupt_index, None where the specification leaves it undefined."""
    recorded: bool = True
    """False for a qualified fault whose IRTE has FPD set: blocked, but not reported."""

    def __str__(self) -> str:
        where = "" if self.index is None else f" at IRTE {self.index}"
        name = reason_name(self.reason)
        return f"blocked{where}: {name} ({self.reason:#04x}), from {self.source_id}"


Translation = Delivered | Posted | Fault


def translate(
    message: Message, source_id: RequesterId, unit: UnitState, read_entry: Callable[[int], Entry]
) -> Translation:
    """Return what becomes of a message that a requester sends.

    :param source_id: requester id (bus, device, function) of the sender.
    :param read_entry: as :meth:`RemappingTable.read_entry`; asked inside the table only.
    """
    if not message.is_interrupt:
        # On hardware this is a plain memory write. A store that sends one is wrong in any case.
        return Fault(FaultReason.MALFORMED_REQUEST, source_id)
    if not unit.remapping_enabled:
        if unit.extended_capability.remapping_required:
            return Fault(FaultReason.REMAPPING_REQUIRED, source_id)
        # The Interrupt Format bit has no meaning yet: everything is compatibility format.
        return _unremapped(message)
    if unit.extended_capability.extended_mode_required and not unit.extended_mode:
        return Fault(FaultReason.EXTENDED_MODE_REQUIRED, source_id)

    request = message.decode()
    if isinstance(request, CompatibilityMessage):
        if unit.compatibility_blocked:
            return Fault(FaultReason.COMPATIBILITY_BLOCKED, source_id)
        return _unremapped(message)
    return _remapped(request, source_id, unit, read_entry)


def _unremapped(message: Message) -> Delivered:
    # With its Interrupt Format bit clear, a remappable message reads as hardware without remapping
    # reads it.
    request = Message(message.address & ~(1 << 4), message.data).decode()
    assert isinstance(request, CompatibilityMessage)
    return Delivered(
        vector=request.vector,
        destination=request.destination,
        delivery_mode=request.delivery_mode,
        logical=request.logical,
        redirection_hint=request.redirection_hint,
        level=request.level,
        index=None,
    )


def _remapped(
    request: RemappableMessage,
    source_id: RequesterId,
    unit: UnitState,
    read_entry: Callable[[int], Entry],
) -> Translation:
    if request.reserved:
        return Fault(FaultReason.REQUEST_RESERVED, source_id)
    index = request.index
    if index >= unit.table.entries:
        return Fault(FaultReason.INDEX_BEYOND_TABLE, source_id, index)
    try:
        entry = read_entry(index)
    except OSError:
        return Fault(FaultReason.TABLE_UNREADABLE, source_id, index)
    if (reason := _objection(entry, source_id, unit)) is not None:
        recorded = reason not in QUALIFIED_REASONS or not entry.fault_disable
        return Fault(reason, source_id, index, recorded)

    if isinstance(entry, PostedEntry):
        return Posted(entry.vector, entry.descriptor, bool(entry.urgent), index)
    return Delivered(
        vector=entry.vector,
        destination=entry.destination(extended_mode=unit.extended_mode),
        delivery_mode=entry.delivery_mode,
        logical=bool(entry.destination_mode),
        redirection_hint=bool(entry.redirection_hint),
        level=bool(entry.trigger_mode),
        index=index,
    )


def _objection(entry: Entry, source_id: RequesterId, unit: UnitState) -> FaultReason | None:
    """Return why an entry may not be used by a requester."""
    if not entry.present:
        return FaultReason.ENTRY_NOT_PRESENT
    if not source_allowed(entry, source_id):
        return FaultReason.SOURCE_ID_MISMATCH
    if _wrongly_programmed(entry, unit):
        return FaultReason.ENTRY_RESERVED
    return None


def source_allowed(entry: Entry, source_id: RequesterId) -> bool:
    """Return whether SVT, SQ and SID of an entry let a requester use it (section 9.9).

    The reserved SVT lets nobody, as in QEMU.
    """
    match entry.source_validation:
        case SourceValidation.NONE:
            return True
        case SourceValidation.SOURCE_ID:
            return not (entry.source_id ^ source_id) & QUALIFIER_MASK[entry.source_qualifier]
        case SourceValidation.BUS_RANGE:
            return entry.source_id >> 8 <= source_id >> 8 <= entry.source_id & 0xFF
        case _:
            return False


def _wrongly_programmed(entry: Entry, unit: UnitState) -> bool:
    if isinstance(entry, RemappedEntry):
        undefined = entry.delivery_mode not in set(DeliveryMode)
        return undefined or bool(entry.reserved_bits(extended_mode=unit.extended_mode))
    # IM itself is reserved on a unit without posting (section 9.10).
    return bool(entry.reserved) or not unit.capability.posted_interrupts
