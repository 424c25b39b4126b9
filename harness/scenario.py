"""The main job: drive the three stores of one function, and check each step from both sides."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from harness.errors import CheckFailed
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store
from harness.spec.msi import Message, RemappableMessage
from harness.spec.vtd import RemappedEntry
from harness.testbed.plugged import STORES, PluggedFunction

COUNT: Final = 4
"""Interrupts that are allocated in each store."""

ANSWER_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the guest, and the trapped accesses to the store that it cost."""

    name: str
    traps: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where an interrupt went: the IRTE that its message named, and the CPU that answered."""

    entry: RemappedEntry
    destination: int
    """APIC id, or logical destination if the IRTE's destination mode says so."""
    cpu: int


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What happened in one store. ``index`` is the interrupt that was looked at closely."""

    store: Store
    virqs: tuple[int, ...]
    index: int
    message: Message
    entry_index: int
    before: Arrival
    after: Arrival | None
    """After a move; None: the guest has one CPU."""
    steps: tuple[Step, ...]


def drive_stores(plugged: PluggedFunction) -> Iterator[StoreReport]:
    """Allocate, raise, move, raise again and free in each store; yield a report as each is done.

    :raises CheckFailed: the guest, the device and the IRTEs do not agree, or an interrupt was lost,
        doubled or misdirected.
    """
    for store in STORES:
        yield _drive_store(plugged, store)


def _drive_store(plugged: PluggedFunction, store: Store) -> StoreReport:
    control, model = plugged.control, plugged.model
    steps: list[Step] = []
    index = COUNT - 1
    baseline = set(plugged.irtes())
    quiet_since = model.ledger.mark()

    with _step(steps, plugged, store, "allocate"):
        allocation = control.alloc(store, COUNT)
    _expect(allocation.done == COUNT, f"{COUNT} asked for, {allocation.done} granted")
    with _step(steps, plugged, store, "request"):
        control.request(store, count=COUNT)
    plugged.check_audit()

    message = plugged.message(store, index)
    request = message.decode()
    if not isinstance(request, RemappableMessage):
        raise CheckFailed(f"{store.name} {index} holds {message}: not in remappable format")
    before = _raise(plugged, store, index, message)

    after = None
    if others := [cpu.cpu for cpu in control.guest.cpus().cpus if cpu.cpu != before.cpu]:
        with _step(steps, plugged, store, "move"):
            plugged.move(store, others[0], index)
        stored = plugged.message(store, index)
        _expect(stored == message, f"the move changed the store from {message} to {stored}")
        after = _raise(plugged, store, index, message)
        _expect(after.cpu == others[0], f"moved to CPU {others[0]}, answered by CPU {after.cpu}")
        _expect(after.entry != before.entry, "the move left the IRTE as it was")
    for other in range(COUNT):
        model.raise_and_wait(store, other, Deadline(ANSWER_SECONDS, f"{store.name} {other}"))
    plugged.check_audit()

    with _step(steps, plugged, store, "free"):
        control.release(store, count=COUNT)
        control.free(store, count=COUNT)
    left = set(plugged.irtes()) - baseline
    _expect(not left, f"IRTEs left after the free: {sorted(left)}")
    plugged.check_audit()
    model.ledger.assert_quiet(quiet_since)
    return StoreReport(
        store=store,
        virqs=tuple(item.virq for item in allocation.interrupts),
        index=index,
        message=message,
        entry_index=request.index,
        before=before,
        after=after,
        steps=tuple(steps),
    )


@contextlib.contextmanager
def _step(steps: list[Step], plugged: PluggedFunction, store: Store, name: str) -> Iterator[None]:
    with plugged.trapped() as traps:
        yield
    steps.append(Step(name, traps[store]))


def _raise(plugged: PluggedFunction, store: Store, index: int, message: Message) -> Arrival:
    deadline = Deadline(ANSWER_SECONDS, f"the answer to {store.name} {index}")
    event = plugged.model.raise_and_wait(store, index, deadline)
    expected = plugged.control.interrupt(store, index).cpu
    _expect(
        event.cpu == expected,
        f"{store.name} {index} is on CPU {expected}, and CPU {event.cpu} answered",
    )
    assert event.cpu is not None
    entry = plugged.irte(message)
    if not isinstance(entry, RemappedEntry):
        raise CheckFailed(f"{message} names an IRTE in posted format")
    return Arrival(entry, plugged.destination(entry), event.cpu)


def _expect(held: bool, otherwise: str) -> None:
    if not held:
        raise CheckFailed(otherwise)
