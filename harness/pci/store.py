"""What the three interrupt message stores have in common."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Protocol

from harness.spec.interrupt import InterruptName, Store
from harness.spec.msi import Message


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """One interrupt of a store as the model sees it: the auditor's view of the device."""

    interrupt: InterruptName
    address: int | None
    """The message the device would send now; None: the client owns the table and sends it."""
    data: int | None
    masked: bool | None
    """None: the client owns the mask bit."""
    pending: bool
    enabled: bool
    """Whether the store is on and this interrupt is one of those granted to the guest."""

    @property
    def store(self) -> Store:
        """Store of the interrupt."""
        return self.interrupt.store

    @property
    def index(self) -> int:
        """Index in the store."""
        return self.interrupt.index


class InterruptStore(Protocol):
    """A store: pure state, looked at and changed under the lock of the function that owns it."""

    @property
    def pending(self) -> Set[int]:
        """Interrupts raised while masked."""

    def set_pending(self, index: int, pending: bool) -> None:
        """Set or clear a pending bit."""

    def enabled(self, index: int) -> bool:
        """Whether the store is on and this interrupt is granted."""

    def masked(self, index: int, *, wired: bool) -> bool:
        """Whether a raised interrupt has to wait. ``wired``: its mask bit is the client's."""

    def message(self, index: int) -> Message:
        """Return the message to send."""


class PendingBits:
    """The pending bits of a store, one for each interrupt: what every store begins with."""

    def __init__(self) -> None:
        self.pending: set[int] = set()
        """Interrupts raised while masked."""

    def set_pending(self, index: int, pending: bool) -> None:
        """Set or clear a pending bit."""
        if pending:
            self.pending.add(index)
        else:
            self.pending.discard(index)

    def pending_bytes(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes at ``offset`` of the bit array."""
        first = offset * 8
        value = sum(1 << bit for bit in range(count * 8) if first + bit in self.pending)
        return value.to_bytes(count, "little")
