"""What remapping hardware does to an interrupt message and QEMU does not, for a vfio-user device.

vfio-user's DMA_WRITE carries no requester id, so QEMU's remapping unit cannot hold such a message
against the source id in the IRTE; and it lets compatibility format through whatever the unit says.
Hardware would do both, so it is done here. And hardware goes by the IRTE that it has cached, QEMU
by the one in memory: a message whose entry was changed and not invalidated goes here where the
cached one leads. All else is left to QEMU: its fault is recorded in the unit, and the guest's
driver logs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from harness.remapping.translate import Fault, Posted, Translation, translate
from harness.remapping.unit import UnitState
from harness.spec.interrupt import Store
from harness.spec.msi import CompatibilityMessage, Message
from harness.spec.pci import RequesterId
from harness.spec.vtd import Entry, FaultReason, decode_entry
from harness.testbed.unit_watch import UnitWatch, UsedEntry

_UNSEEN: Final = frozenset({FaultReason.COMPATIBILITY_BLOCKED, FaultReason.SOURCE_ID_MISMATCH})
"""Faults of a message that QEMU would deliver."""
_INDEX_LIMIT: Final = 1 << 16
"""QEMU computes handle + subhandle in 16 bits: from here on it would use another entry."""
_MOST_DECISIONS: Final = 4096
"""Messages whose way is remembered: more than a function of 2048 IMS entries has."""
_BUS_DESTINATION: Final = 0xFF
"""A compatibility-format message has 8 bits for its destination."""


@dataclass(frozen=True, slots=True)
class _Decision:
    """What becomes of a message by an IRTE, for as long as the unit uses that one so."""

    unit: UnitState
    index: int
    entry: bytes
    fresh: Message | Fault
    """While the table has the entry as well."""
    stale: Message | Fault
    """When the table has another."""

    def now(self, used: UsedEntry) -> Message | Fault:
        return self.fresh if used.current == self.entry else self.stale


class SourceGate:
    """Does what remapping hardware would, and QEMU not. Implements ``devices.MessageGate``.

    :param requester_id: of the function whose messages these are, and whose lock is held when it
        asks: the gate has none of its own.
    """

    def __init__(self, requester_id: RequesterId, watch: UnitWatch):
        self._requester_id = requester_id
        self._watch = watch
        self._decisions: dict[Message, _Decision] = {}

    def route(self, store: Store, index: int, message: Message) -> Message | Fault:
        """Return the message to send for this one, or the fault that it ends in."""
        if decision := self._decisions.get(message):
            try:
                used = self._watch.entry(decision.index)
            except OSError:
                return self._decide(message)
            if used.unit is decision.unit and used.cached == decision.entry:
                return decision.now(used)
        return self._decide(message)

    def _decide(self, message: Message) -> Message | Fault:
        unit = self._watch.state()
        uses: list[tuple[int, UsedEntry]] = []

        def read_entry(index: int) -> Entry:
            uses.append((index, self._watch.entry(index)))
            return decode_entry(uses[-1][1].cached)

        fate = translate(message, self._requester_id, unit, read_entry)
        fresh = fate if isinstance(fate, Fault) and _is_unseen(fate) else message
        if not uses:
            return fresh
        (index, used) = uses[0]
        decision = _Decision(unit, index, used.cached, fresh, _stale(fate, unit, message))
        if len(self._decisions) == _MOST_DECISIONS:
            self._decisions.clear()
        self._decisions[message] = decision
        return decision.now(used)


def _is_unseen(fault: Fault) -> bool:
    """Return whether QEMU would deliver a message that ends in this fault."""
    return fault.reason in _UNSEEN or (fault.index or 0) >= _INDEX_LIMIT


def _stale(fate: Translation, unit: UnitState, message: Message) -> Message | Fault:
    """Return how a message gets to its fate when QEMU knows nothing of the entry behind it.

    A message in compatibility format names processor and vector, and QEMU lets it through. Of a
    destination that is too wide for one, only the oracle tells (:meth:`UnitWatch.stale_entries`).
    """
    if isinstance(fate, Fault):
        return fate
    if isinstance(fate, Posted):  # no unit here posts
        return message
    destination, logical = fate.destination, fate.logical
    if logical and unit.extended_mode and destination > _BUS_DESTINATION:
        # Cluster and one bit of 16 (Intel SDM volume 3, "Logical Destination Mode in x2APIC Mode").
        destination = (destination >> 16 << 4) + (destination & 0xFFFF).bit_length() - 1
        logical = False
    if destination > _BUS_DESTINATION:
        return message
    return CompatibilityMessage(
        destination,
        fate.vector,
        delivery_mode=fate.delivery_mode,
        logical=logical,
        redirection_hint=fate.redirection_hint,
        level=fate.level,
    ).message()
