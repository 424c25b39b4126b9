"""The source-id check of the messages that the function sends itself.

vfio-user's DMA_WRITE carries no requester id, so QEMU's remapping unit cannot hold such a message
against the source id in the IRTE. Hardware would; so the model does, with the IRTE in guest memory.
"""

from __future__ import annotations

from harness.remapping.translate import Fault, translate
from harness.remapping.unit import PhysicalMemory, RemappingTable, UnitState
from harness.spec.interrupt import Store
from harness.spec.msi import Message


class SourceGate:
    """Refuses what an interrupt remapping unit would block. Implements ``devices.MessageGate``.

    It lets everything through until :meth:`watch` tells which unit is in front of the function, and
    what the function's requester id is. The table's address is taken then; its entries are read
    from guest memory at each message.
    """

    def __init__(self, memory: PhysicalMemory):
        self._memory = memory
        self._unit: UnitState | None = None
        self._requester_id = 0

    def watch(self, unit: UnitState, requester_id: int) -> None:
        """Check from now on against ``unit``, for a function with this requester id."""
        self._requester_id = requester_id
        self._unit = unit

    def refusal(self, store: Store, index: int, address: int, data: int) -> str | None:
        """Return why the unit would block this message, None when it would not."""
        if self._unit is None or not self._unit.remapping_enabled:
            return None
        table = RemappingTable.of(self._unit, self._memory)
        outcome = translate(
            Message(address, data), self._requester_id, self._unit, table.read_entry
        )
        return str(outcome) if isinstance(outcome, Fault) else None
