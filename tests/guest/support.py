"""What guest tests have in common."""

from __future__ import annotations

from harness.host.deadline import Deadline
from harness.spec.interrupt import Store
from harness.testbed.plugged import PluggedFunction


def deliver(plugged: PluggedFunction, store: Store, *indices: int) -> None:
    """Raise each interrupt, one after the other, and wait for the guest's answer to each."""
    for index in indices:
        plugged.model.raise_and_wait(store, index, Deadline(10, f"{store.name} {index}"))


def deliver_all(plugged: PluggedFunction, store: Store, indices: range) -> None:
    """Raise every interrupt of a range once, and wait for the answer to each of them."""
    events = [plugged.model.raise_interrupt(store, index) for index in indices]
    plugged.model.ledger.wait_answered(events, Deadline(60, f"{store.name} {indices}"))


def runs(plugged: PluggedFunction, store: Store, index: int) -> int:
    """Return how often the guest's handler has run for an interrupt."""
    return sum(plugged.control.interrupt(store, index).counts)


def fence(plugged: PluggedFunction, store: Store, index: int) -> None:
    """Come back when everything that was on its way into the guest has arrived.

    ``index`` is another interrupt that is free to be raised: what left the device before it has
    gone the same way.
    """
    deliver(plugged, store, index, index)
