"""Another clock, tied to ours: what it shows, less what ours shows, and how far that may be off."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from harness.events.stream import Event, now


@dataclass(frozen=True, slots=True)
class ClockTie:
    """How another clock, in nanoseconds, stands to CLOCK_MONOTONIC."""

    offset: int
    """What the other clock shows more than ours."""
    error: int
    """By how much ``offset`` may be wrong, either way."""

    @classmethod
    def measure(cls, read: Callable[[], int], rounds: int) -> Self:
        """Read the other clock several times.

        It was read at some moment of a round trip, so that half of the shortest bounds the error.
        """
        ties = []
        for _ in range(rounds):
            before = now()
            shown = read()
            after = now()
            ties.append(cls(shown - (before + after) // 2, (after - before + 1) // 2))
        return min(ties, key=lambda tie: tie.error)

    def ours(self, shown: int) -> int:
        """Return what our clock showed when the other one showed this."""
        return shown - self.offset


@dataclass(frozen=True, slots=True)
class ClockTied(Event):
    """Another clock's tie, as a timeline shows it."""

    tie: ClockTie

    def __str__(self) -> str:
        offset, error = self.tie.offset / 1e9, self.tie.error / 1e9
        return f"its clock showed {self.when / 1e9 + offset:.6f}, within {error:.6f} s"


def wall_clock() -> ClockTie:
    """Tie CLOCK_REALTIME as it is now: it may be set at any time."""
    return ClockTie.measure(time.time_ns, rounds=3)
