"""Row B8: three views of the same interrupts held against each other.

1. the present IRTEs, from guest memory;
2. the guest's own list of its interrupts;
3. the device's stores.

Each of them becomes a :class:`Disagreement`; a sound system gives none. The views must be of one
moment: pause the guest, or leave it idle, while they are taken.

The audit has its own idea of what is right and uses no model (:mod:`harness.remapping.translate` or
a host's), so that it can find fault with them.

What Linux does and the rules allow for (drivers/iommu/intel/irq_remapping.c, arch/x86/kernel/apic/
vector.c, kernel/irq/msi.c; v6.1 to v7.2):

- An interrupt that is allocated and not requested has either no present IRTE, or a placeholder at
  MANAGED_IRQ_SHUTDOWN_VECTOR (0xef): PCI/MSI is activated early, and free_irq() clears the entry.
- The IO-APIC's entries carry its own source id, and always edge trigger. The message composed for a
  pin holds the pin number as subhandle and is never sent so: pass ``message=None`` for a pin.
- HPET entries leave the function number out of the comparison (SQ = 11b).
- PCI MSI without mask bits cannot be silenced while other messages of the capability are in use.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.spec.interrupt import InterruptName, Store
from harness.spec.msi import DeliveryMode, Message, RemappableMessage
from harness.spec.pci import RequesterId
from harness.spec.vtd import (
    Entry,
    PostedEntry,
    RemappedEntry,
    SourceValidation,
)


class Kind(enum.StrEnum):
    """What is wrong."""

    ORPHAN_ENTRY = "orphan entry"
    """A present IRTE belongs to no interrupt of the guest."""
    MISSING_ENTRY = "missing entry"
    """A requested interrupt behind remapping has no present IRTE."""
    SHARED_ENTRY = "shared entry"
    """Two interrupts have one IRTE."""
    POSTED_ENTRY = "posted entry"
    """An IRTE is in posted format, which no guest here uses."""
    RESERVED_BITS = "reserved bits"
    """Reserved bits are set in an IRTE or a message, or a reserved encoding is used."""
    WRONG_VECTOR = "wrong vector"
    """The IRTE has another vector than the guest allocated."""
    WRONG_DESTINATION = "wrong destination"
    """The IRTE goes to another processor, or in another destination mode."""
    WRONG_DELIVERY = "wrong delivery"
    """The IRTE is not fixed delivery with edge trigger."""
    WRONG_SOURCE_VALIDATION = "wrong source validation"
    """SVT is not as this sender needs it."""
    WRONG_SOURCE_QUALIFIER = "wrong source qualifier"
    """SQ is not as this sender needs it."""
    WRONG_SOURCE_ID = "wrong source id"
    """SID is not the sender."""
    NOT_AN_INTERRUPT = "not an interrupt"
    """A message's address is outside FEEx_xxxxh."""
    COMPATIBILITY_FORMAT = "compatibility format"
    """A message behind remapping does not name an IRTE."""
    ABSENT_ENTRY = "absent entry"
    """A message in a store names an IRTE that is not present."""
    FOREIGN_ENTRY = "foreign entry"
    """A message names an IRTE other than its own interrupt's."""
    MESSAGE_DIFFERS = "message differs"
    """The store holds another message than the guest composed."""
    NULL_MESSAGE = "null message"
    """A store entry could send now, and holds the null message."""
    UNCLAIMED_STORE_ENTRY = "unclaimed store entry"
    """A store entry could send now, and the guest has no interrupt for it."""
    MISSING_STORE_ENTRY = "missing store entry"
    """A requested interrupt is in no entry of its store."""
    MISSING_HANDLE = "missing handle"
    """A requested interrupt in the new scheme has no handle; see ``handle_audit``."""
    ORPHAN_HANDLE = "orphan handle"
    """The hypervisor holds a handle for an interrupt that the guest does not have."""
    MISSING_ROUTE = "missing route"
    """A requested interrupt's handle is parked."""
    UNEXPECTED_MASK = "unexpected mask"
    """A requested interrupt that the guest has not masked cannot be sent."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One disagreement, with the interrupt, IRTE and store entry that it is about."""

    kind: Kind
    sentence: str
    virq: int | None = None
    entry: int | None = None
    """Index of the IRTE."""
    interrupt: InterruptName | None = None
    """Its name in a store."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.sentence}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestInterrupt:
    """One interrupt, as the guest's kernel knows it."""

    virq: int
    """Linux interrupt number."""
    domains: tuple[str, ...] = ()
    """Names of its IRQ domains, from the device's to the vector domain."""
    requested: bool
    """Whether it has a handler: then it is activated."""
    masked: bool = False
    """Whether the guest itself keeps it masked (disable_irq, or masked at the chip)."""
    handle: int | None = None
    """Index of its IRTE, None when it is not behind remapping; see
    :func:`harness.remapping.linux.entry_index`."""
    vector: int | None = None
    """What the vector domain has for it; None: unknown, not compared. The next two likewise."""
    destination: int | None = None
    """APIC id, or logical destination if ``logical``."""
    logical: bool | None = None
    source_id: RequesterId | None = None
    """Requester id of the sender; None: not compared, nor are the next two."""
    source_validation: int = SourceValidation.SOURCE_ID
    source_qualifier: int = 0
    message: Message | None = None
    """What the hierarchy composes for the store; None: unknown, not compared."""
    name: InterruptName | None = None
    """What the audited device knows it by; None: another device's, or in no store."""

    def __str__(self) -> str:
        place = "" if self.name is None else f" ({self.name})"
        return f"irq {self.virq}{place}"


class StoreView(Protocol):
    """One entry of a store, as the device knows it."""

    @property
    def interrupt(self) -> InterruptName:
        """Which interrupt it holds."""

    @property
    def address(self) -> int | None:
        """Address of the message it would send; None: the device does not know it."""

    @property
    def data(self) -> int | None:
        """Data of that message; None: the device does not know it."""

    @property
    def masked(self) -> bool | None:
        """Whether it is masked; None: the device does not know."""

    @property
    def enabled(self) -> bool:
        """Whether the store is on and the guest was granted this entry."""


def audit(
    entries: Mapping[int, Entry],
    interrupts: Sequence[GuestInterrupt],
    stores: Sequence[StoreView],
    *,
    extended_mode: bool,
) -> list[Disagreement]:
    """Return every disagreement between the three views.

    :param entries: the present IRTEs, by index.
    :param interrupts: every interrupt of the guest; one left out makes its IRTE an orphan.
    :param stores: the entries of one device's stores. A store of which no entry is given is
        not compared.
    :param extended_mode: whether destinations are 32 bits (IRTA_REG.EIME).
    """
    owners: dict[int, GuestInterrupt] = {}
    claims: dict[InterruptName, GuestInterrupt] = {}
    findings: list[Disagreement] = []
    for interrupt in interrupts:
        if interrupt.name is not None:
            claims[interrupt.name] = interrupt
        if interrupt.handle is None:
            continue
        owner = owners.setdefault(interrupt.handle, interrupt)
        if owner is not interrupt:
            findings.append(
                Disagreement(
                    Kind.SHARED_ENTRY,
                    f"{owner} and {interrupt} both have IRTE {interrupt.handle}",
                    virq=interrupt.virq,
                    entry=interrupt.handle,
                )
            )

    for index, entry in sorted(entries.items()):
        findings += _audit_entry(index, entry, owners.get(index), extended_mode=extended_mode)
    for interrupt in interrupts:
        findings += _audit_interrupt(interrupt, entries)
    findings += _audit_presence(claims, stores)
    for view in stores:
        findings += _audit_store_entry(view, claims.get(view.interrupt), entries)
    return findings


# ------------------------------------------------------------------------------ IRTEs


def _audit_entry(
    index: int, entry: Entry, owner: GuestInterrupt | None, *, extended_mode: bool
) -> Iterator[Disagreement]:
    """Hold one present IRTE against the interrupt that owns it."""

    def finding(kind: Kind, what: str) -> Disagreement:
        whose = "" if owner is None else f" of {owner}"
        virq = None if owner is None else owner.virq
        return Disagreement(kind, f"IRTE {index}{whose} {what}", virq=virq, entry=index)

    if owner is None:
        yield finding(Kind.ORPHAN_ENTRY, "is present and belongs to no interrupt of the guest")
    if isinstance(entry, PostedEntry):
        yield finding(Kind.POSTED_ENTRY, f"posts to {entry.descriptor:#x}")
        return
    if reserved := entry.reserved_bits(extended_mode=extended_mode):
        yield finding(Kind.RESERVED_BITS, f"has reserved bits {reserved:#x} set")
    if entry.source_validation == SourceValidation.RESERVED:
        yield finding(Kind.RESERVED_BITS, "has the reserved SVT 11b")
    if owner is not None:
        for kind, what in _differences(entry, owner, extended_mode=extended_mode):
            yield finding(kind, what)


def _differences(
    entry: RemappedEntry, owner: GuestInterrupt, *, extended_mode: bool
) -> Iterator[tuple[Kind, str]]:
    """Name where a remapped IRTE and its owner differ."""
    if owner.vector is not None and entry.vector != owner.vector:
        yield (
            Kind.WRONG_VECTOR,
            f"has vector {entry.vector:#x}, the guest allocated {owner.vector:#x}",
        )
    destination = entry.destination(extended_mode=extended_mode)
    if owner.destination is not None and destination != owner.destination:
        yield (
            Kind.WRONG_DESTINATION,
            f"goes to {destination:#x}, the guest's target is {owner.destination:#x}",
        )
    logical = bool(entry.destination_mode)
    if owner.logical is not None and logical != owner.logical:
        mode = "logical" if logical else "physical"
        yield (
            Kind.WRONG_DESTINATION,
            f"has a {mode} destination, the guest's is the other kind",
        )
    if entry.delivery_mode != DeliveryMode.FIXED or entry.trigger_mode:
        trigger = "level" if entry.trigger_mode else "edge"
        yield (
            Kind.WRONG_DELIVERY,
            f"has delivery mode {entry.delivery_mode:03b}b with {trigger} trigger",
        )
    if owner.source_id is None:
        return
    if entry.source_validation != owner.source_validation:
        yield (
            Kind.WRONG_SOURCE_VALIDATION,
            f"has SVT {entry.source_validation:02b}b, not {owner.source_validation:02b}b",
        )
    if entry.source_qualifier != owner.source_qualifier:
        yield (
            Kind.WRONG_SOURCE_QUALIFIER,
            f"has SQ {entry.source_qualifier:02b}b, not {owner.source_qualifier:02b}b",
        )
    if entry.source_id != owner.source_id:
        yield (
            Kind.WRONG_SOURCE_ID,
            f"admits {RequesterId(entry.source_id)}, the sender is {owner.source_id}",
        )


# ------------------------------------------------------------------------------ the guest's list


def _audit_interrupt(
    interrupt: GuestInterrupt, entries: Mapping[int, Entry]
) -> Iterator[Disagreement]:
    """Hold one interrupt against the table, and the message composed for it against its handle."""
    if interrupt.handle is None:
        return
    if interrupt.requested and interrupt.handle not in entries:
        yield Disagreement(
            Kind.MISSING_ENTRY,
            f"{interrupt} is requested, and its IRTE {interrupt.handle} is not present",
            virq=interrupt.virq,
            entry=interrupt.handle,
        )
    if interrupt.message is not None and not interrupt.message.is_null:
        for kind, what, entry in _message_faults(interrupt.message, interrupt):
            yield Disagreement(
                kind,
                f"the guest composes {interrupt.message} for {interrupt}, which {what}",
                virq=interrupt.virq,
                entry=entry,
                interrupt=interrupt.name,
            )


def _message_faults(
    message: Message, owner: GuestInterrupt | None
) -> Iterator[tuple[Kind, str, int | None]]:
    """Name what is wrong with a message that is not null: kind, sentence, IRTE that it names."""
    if not message.is_interrupt:
        yield Kind.NOT_AN_INTERRUPT, "is outside the interrupt address range", None
        return
    if owner is None or owner.handle is None:
        return
    request = message.decode()
    if not isinstance(request, RemappableMessage):
        yield (
            Kind.COMPATIBILITY_FORMAT,
            "is in compatibility format behind remapping",
            None,
        )
        return
    if request.reserved:
        yield (
            Kind.RESERVED_BITS,
            f"has reserved bits {request.reserved:#x} set",
            request.index,
        )
    if request.index != owner.handle:
        yield (
            Kind.FOREIGN_ENTRY,
            f"names IRTE {request.index}, not {owner.handle}",
            request.index,
        )


# ------------------------------------------------------------------------------ the stores


def _audit_presence(
    claims: Mapping[InterruptName, GuestInterrupt], stores: Sequence[StoreView]
) -> Iterator[Disagreement]:
    """Name requested interrupts of an audited store that the store has no entry for."""
    present = {view.interrupt for view in stores}
    audited = {name.store for name in present}
    for name, interrupt in claims.items():
        if interrupt.requested and name.store in audited and name not in present:
            yield Disagreement(
                Kind.MISSING_STORE_ENTRY,
                f"{interrupt} is requested, and the device has no such entry",
                virq=interrupt.virq,
                interrupt=name,
            )


def _audit_store_entry(
    view: StoreView, owner: GuestInterrupt | None, entries: Mapping[int, Entry]
) -> Iterator[Disagreement]:
    """Hold one store entry against the interrupt that claims it and the IRTE that it names."""
    virq = None if owner is None else owner.virq

    def finding(kind: Kind, what: str, entry: int | None = None) -> Disagreement:
        return Disagreement(
            kind, f"{view.interrupt} {what}", virq=virq, entry=entry, interrupt=view.interrupt
        )

    live = view.enabled and view.masked is False
    if owner is None and live:
        yield finding(
            Kind.UNCLAIMED_STORE_ENTRY,
            "could send, and the guest has no interrupt there",
        )
    if owner is not None and owner.requested and not owner.masked:
        if not view.enabled:
            yield finding(Kind.UNEXPECTED_MASK, f"of {owner} is requested, and its store is off")
        elif view.masked:
            yield finding(
                Kind.UNEXPECTED_MASK,
                f"of {owner} is requested, and masked in its store",
            )

    # A released MSI message cannot be masked: its driver keeps quiet, and its content is of no use.
    released = owner is not None and not owner.requested and view.interrupt.store is Store.MSI
    if view.address is None or view.data is None or released or (owner is None and not live):
        return
    if not view.address:
        # MSI puts the message's number into the data, so a null message may have some.
        if live:
            yield finding(Kind.NULL_MESSAGE, "could send, and holds the null message")
        return
    message = Message(view.address, view.data)
    for kind, what, entry in _message_faults(message, owner):
        yield finding(kind, f"holds {message}, which {what}", entry)
    if owner is not None and owner.message is not None and message != owner.message:
        yield finding(Kind.MESSAGE_DIFFERS, f"holds {message}, the guest composed {owner.message}")
    request = message.decode() if message.is_interrupt else None
    if isinstance(request, RemappableMessage) and request.index not in entries:
        yield finding(
            Kind.ABSENT_ENTRY,
            f"holds {message}, which names IRTE {request.index}: not present",
            request.index,
        )
