"""What the three interrupt message stores have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from harness.spec.interrupt import Store


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """One interrupt of a store as the model sees it: the auditor's view of the device."""

    store: Store
    index: int
    address: int | None
    """The message the device would send now; None: the client owns the table and sends it."""
    data: int | None
    masked: bool | None
    """None: the client owns the mask bit."""
    pending: bool
    enabled: bool
    """Whether the store is on and this interrupt is one of those granted to the guest."""


class InterruptStore(Protocol):
    """A store: pure state, changed by the function that owns it and holds its lock."""

    pending: set[int]
    """Interrupts raised while masked."""

    def enabled(self, index: int) -> bool:
        """Whether the store is on and this interrupt is granted."""

    def masked(self, index: int, *, wired: bool) -> bool:
        """Whether a raised interrupt has to wait. ``wired``: its mask bit is the client's."""

    def message(self, index: int) -> tuple[int, int]:
        """Return the address and data to send."""
