"""Row G1, after every operation of the guest: whatever changed in the table was invalidated.

An operation that frees what an earlier one moved hides the earlier one's fault. So the table is not
only looked at when a test asks, but whenever the control tool has answered.
"""

from __future__ import annotations

from typing import Final

from harness.devices.ledger import Ledger
from harness.errors import CheckFailed
from harness.remapping.entry_cache import StaleEntry
from harness.testbed.unit_watch import UnitWatch

_MOST: Final = 1000
"""Stale entries that are remembered for whoever checks."""


class InvalidationOracle:
    """Remembers which IRTEs of a machine stayed stale when an operation of its guest was over."""

    def __init__(self, watch: UnitWatch):
        self._watch = watch
        self._ledgers: list[Ledger] = []
        self._found: dict[StaleEntry, None] = {}  # in the order in which they were found
        self.look()  # from here on, every change is seen

    def follow(self, ledger: Ledger) -> None:
        """Take note of a function whose interrupts may be in flight."""
        self._ledgers.append(ledger)

    def look(self) -> None:
        """Look at the table: an operation of the guest has just returned.

        Nothing is judged while an interrupt is in flight: it may be carrying out a move that was
        put off, and be between the change and its invalidation. The next look comes soon enough,
        for what is stale stays so.
        """
        flown = self._flown()
        if any(ledger.unanswered for ledger in self._ledgers):
            return
        try:
            stale = self._watch.stale_entries()
        except OSError:  # whoever checks is told
            return
        if self._flown() == flown:
            self._keep(stale)

    def check(self) -> None:
        """Look at the table, and tell what was found since the last check.

        What it names stays stale until it is invalidated, and is named again by the next.

        :raises CheckFailed: there is something; each entry is named as it was and is.
        :raises OSError: the table is not in memory.
        """
        self._keep(self._watch.stale_entries())
        found, self._found = self._found, {}
        if found:
            raise CheckFailed(
                f"{len(found)} remapping entries might still be used as they were",
                evidence="\n".join(map(str, found)),
            )

    def _flown(self) -> int:
        return sum(ledger.counts()["raised"] for ledger in self._ledgers)

    def _keep(self, stale: list[StaleEntry]) -> None:
        for entry in stale[: _MOST - len(self._found)]:
            self._found[entry] = None
