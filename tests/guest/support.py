"""What guest tests have in common."""

from __future__ import annotations

from harness.host.deadline import Deadline
from harness.spec.ims import Store
from harness.testbed.plugged import PluggedFunction


def set_up(plugged: PluggedFunction, store: Store, count: int, *, index: int = 0) -> None:
    """Allocate and request a range of interrupts."""
    plugged.control.alloc(store, count, index=index)
    plugged.control.request(store, index=index, count=count)


def deliver(plugged: PluggedFunction, store: Store, *indices: int) -> None:
    """Raise each interrupt, one after the other, and wait for the guest's answer to each."""
    for index in indices:
        plugged.model.raise_and_wait(store, index, Deadline(10, f"{store.name} {index}"))


def runs(plugged: PluggedFunction, store: Store, index: int) -> int:
    """Return how often the guest's handler has run for an interrupt."""
    return sum(plugged.control.interrupt(store, index).counts)


def fence(plugged: PluggedFunction, store: Store, index: int) -> None:
    """Come back when everything that was on its way into the guest has arrived.

    ``index`` is another interrupt that is free to be raised: what left the device before it has
    gone the same way.
    """
    deliver(plugged, store, index, index)
