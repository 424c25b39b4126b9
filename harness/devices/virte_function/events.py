"""What the function of the call writes into the stream."""

from __future__ import annotations

from dataclasses import dataclass

from harness.events.stream import Event
from harness.hypervisor.calls import Answered
from harness.hypervisor.host import Delivered, Fault

_ENTRY_BYTES = 700
"""What an entry of a call takes in memory, request and answer."""


@dataclass(frozen=True, slots=True)
class Called(Event):
    """A call and its answers."""

    frame: int
    answered: Answered

    def held(self) -> int:
        """Return the bytes that this event takes."""
        return self.BYTES + _ENTRY_BYTES * (1 + len(self.answered.entries))

    def __str__(self) -> str:
        return f"call in frame {self.frame}: {self.answered}"


@dataclass(frozen=True, slots=True)
class Signalled(Event):
    """A message to a doorbell page, and what became of it."""

    outcome: Delivered | Fault

    def __str__(self) -> str:
        return str(self.outcome)


@dataclass(frozen=True, slots=True)
class ReturnedToOldScheme(Event):
    """The guest was reset or left without a word: what it held is dead."""

    handles: int

    def __str__(self) -> str:
        return f"back in the old scheme, {self.handles} handles are dead"
