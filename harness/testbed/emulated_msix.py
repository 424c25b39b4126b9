# Ref: QEMU hw/pci/msix.c (msix_notify, msix_handle_mask_update, msix_vector_use, msix_reset)
"""MSI-X of a function that QEMU emulates, as what is written to it leaves it.

From this follows what QEMU sends for the function, and what it holds back.
"""

from __future__ import annotations

from collections import Counter

from harness.pci.message_table import ENTRY_SIZE, MessageTable
from harness.spec.msi import Message
from harness.spec.pci import Command, MsixControl


class EmulatedMsix:
    """The state of MSI-X, from the reset on. Who changes it is told what is sent because of that.

    :param count: entries of the table.
    """

    def __init__(self, count: int):
        self.count = count
        self._table = MessageTable(bytearray(count * ENTRY_SIZE), count)
        self._users: Counter[int] = Counter()
        """How much of the device uses a vector: one that nothing uses sends nothing."""
        self._pending: set[int] = set()
        self.reset()

    def reset(self) -> None:
        """Return to the state after power-on. Who uses which vector is the device's affair."""
        self._table.reset()
        self._pending.clear()
        self._master = self.enabled = self._function_mask = False

    def use(self, vector: int) -> None:
        """One part more of the device has this vector."""
        self._users[vector] += 1

    def unuse(self, vector: int) -> None:
        """One part less has this vector; what the last one has left pending is forgotten."""
        self._users[vector] -= 1
        if self._users[vector] <= 0:
            del self._users[vector]
            self._pending.discard(vector)

    def unuse_all(self) -> None:
        """No part of the device has a vector any more."""
        self._users.clear()
        self._pending.clear()

    def fire(self, vector: int) -> list[Message]:
        """A part of the device has an interrupt to send."""
        if not self.enabled or not self._users[vector]:
            return []
        if self._masked(vector):
            self._pending.add(vector)
            return []
        return [self._table.message(vector)] if self._master else []

    def command_written(self, command: Command) -> None:
        """Take note of Bus Master Enable."""
        self._master = bool(command.bus_master)

    def control_written(self, control: MsixControl) -> list[Message]:
        """Take note of Enable and Function Mask."""
        self.enabled, self._function_mask = bool(control.enable), bool(control.function_mask)
        return self._fire_unmasked()

    def table_written(self, offset: int, dword: int) -> list[Message]:
        """Take note of a dword of the table."""
        data = dword.to_bytes(4, "little")
        if not self._table.allows(offset, len(data)):
            return []
        self._table.write(offset, data)
        return self._fire_unmasked()

    def _masked(self, vector: int) -> bool:
        return not self.enabled or self._function_mask or self._table.mask_bit(vector)

    def _fire_unmasked(self) -> list[Message]:
        unmasked = sorted(vector for vector in self._pending if not self._masked(vector))
        self._pending.difference_update(unmasked)
        return [message for vector in unmasked for message in self.fire(vector)]
