"""The checks of an interrupt message that QEMU cannot make for a vfio-user device.

vfio-user's DMA_WRITE carries no requester id, so QEMU's remapping unit cannot hold such a message
against the source id in the IRTE; and it lets compatibility format through whatever the unit says.
Hardware would do both, so it is done here. All else is left to QEMU: its fault is recorded in the
unit, and the guest's driver logs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from harness.remapping.translate import Fault, translate
from harness.remapping.unit import PhysicalMemory, RemappingTable, UnitState
from harness.spec.interrupt import Store
from harness.spec.msi import Message
from harness.spec.pci import RequesterId
from harness.spec.vtd import FaultReason

_UNSEEN: Final = frozenset({FaultReason.COMPATIBILITY_BLOCKED, FaultReason.SOURCE_ID_MISMATCH})
"""Faults of a message that QEMU would deliver."""
_INDEX_LIMIT: Final = 1 << 16
"""QEMU computes handle + subhandle in 16 bits: from here on it would use another entry."""


class SourceGate:
    """Refuses what remapping hardware would, and QEMU not. Implements ``devices.MessageGate``.

    The unit's state and the IRTE are looked at for each message.

    :param requester_id: of the function whose messages these are.
    :param unit: returns the unit's state now; it may be called on any thread.
    """

    def __init__(
        self, requester_id: RequesterId, memory: PhysicalMemory, unit: Callable[[], UnitState]
    ):
        self._requester_id = requester_id
        self._memory = memory
        self._unit = unit

    def route(self, store: Store, index: int, message: Message) -> Message | Fault:
        """Return the message, or the fault that it ends in although QEMU would deliver it."""
        unit = self._unit()
        table = RemappingTable.of(unit, self._memory)
        fate = translate(message, self._requester_id, unit, table.read_entry)
        if isinstance(fate, Fault) and (
            fate.reason in _UNSEEN or (fate.index or 0) >= _INDEX_LIMIT
        ):
            return fate
        return message
