"""The hypervisor's view in the audit: the handles of one function, its guest's list, its stores.

A function in the new scheme has no IRTE. What the hypervisor holds for it - handle, owner, pair,
route - is held against what the guest and the device know. As :mod:`harness.remapping.audit`, this
uses no model, so that it can find fault with one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.remapping.audit import Disagreement, GuestInterrupt, Kind, StoreView
from harness.spec.interrupt import InterruptName, Store
from harness.spec.msi import Message


@dataclass(frozen=True, slots=True)
class HandleView:
    """One handle, as the hypervisor has it."""

    handle: int
    interrupt: InterruptName
    pair: Message
    destination: int | None
    """APIC id, or logical destination; None: parked. Likewise the vector."""
    vector: int | None

    @property
    def fills_a_block(self) -> bool:
        """Whether it may be there only because blocks of MSI are powers of two."""
        return self.interrupt.store is Store.MSI and self.vector is None

    def __str__(self) -> str:
        return f"handle {self.handle:#x} of {self.interrupt}"


def audit_handles(
    handles: Iterable[HandleView],
    interrupts: Sequence[GuestInterrupt],
    stores: Iterable[StoreView],
) -> list[Disagreement]:
    """Return every disagreement about one function's handles.

    :param interrupts: the function's, all of them.
    """
    held = {view.interrupt: view for view in handles}
    claims = {item.name: item for item in interrupts if item.name is not None}
    findings = [
        Disagreement(Kind.ORPHAN_HANDLE, f"{view} is of no interrupt of the guest", interrupt=name)
        for name, view in held.items()
        if name not in claims and not view.fills_a_block
    ]
    for name, item in claims.items():
        if item.requested:
            findings += [
                Disagreement(kind, f"{item} {what}", virq=item.virq, interrupt=name)
                for kind, what in _interrupt_faults(item, held.get(name))
            ]
    for view in stores:
        findings += _store_faults(view, claims.get(view.interrupt), held.get(view.interrupt))
    return findings


def _interrupt_faults(item: GuestInterrupt, view: HandleView | None) -> Iterator[tuple[Kind, str]]:
    if view is None:
        yield Kind.MISSING_HANDLE, "is requested, and the hypervisor holds no handle for it"
        return
    if view.vector is None:
        yield Kind.MISSING_ROUTE, f"is requested, and {view} is parked"
    elif item.vector is not None and view.vector != item.vector:
        yield (
            Kind.WRONG_VECTOR,
            f"has vector {item.vector:#x}, and {view} goes to {view.vector:#x}",
        )
    if None not in (view.destination, item.destination) and view.destination != item.destination:
        yield (
            Kind.WRONG_DESTINATION,
            f"is on {item.destination:#x}, and {view} goes to {view.destination:#x}",
        )
    if item.message is not None and item.message != view.pair:
        yield Kind.MESSAGE_DIFFERS, f"has {item.message} composed, and {view} is {view.pair}"


def _store_faults(
    stored: StoreView, owner: GuestInterrupt | None, view: HandleView | None
) -> Iterator[Disagreement]:
    live = stored.enabled and stored.masked is False
    released = owner is not None and not owner.requested and stored.interrupt.store is Store.MSI
    if stored.address is None or stored.data is None or not live or released:
        return
    message = Message(stored.address, stored.data)
    if view is None or message != view.pair:
        has = "there is no handle for it" if view is None else f"{view} is {view.pair}"
        yield Disagreement(
            Kind.MESSAGE_DIFFERS,
            f"{stored.interrupt} could send {message}, and {has}",
            interrupt=stored.interrupt,
        )
