"""PCI MSI-X: table, pending bit array, function mask and enable (PCI Express 6.0, 7.7.2)."""

from __future__ import annotations

from harness.pci.config_space import ConfigSpace
from harness.pci.message_table import (
    CONTROL_OFFSET,
    ENTRY_SIZE,
    MASK_BIT,
    MessageTable,
)
from harness.pci.store import PendingBits
from harness.spec.msi import NULL_MESSAGE, Message
from harness.spec.pci import CapabilityId, MsixControl


class MsixStore(PendingBits):
    """State of MSI-X.

    The device works with a copy of each message: it is re-read from the table when the entry's mask
    goes away - its own bit, the Function Mask bit, or both with Enable - and at no other time
    (7.7.2, "cached address and data").

    :param config: the function's config space, which has the capability.
    """

    def __init__(self, config: ConfigSpace):
        super().__init__()
        self._config = config
        self._control_at = config.capabilities[CapabilityId.MSIX].offset + 2
        self.count = MsixControl.unpack(config.get(self._control_at, 2)).table_size + 1
        """Entries of the table."""
        self._table = MessageTable(bytearray(self.count * ENTRY_SIZE), self.count)
        self._latched = [NULL_MESSAGE] * self.count
        self._on = False
        self._live = False

    def registers_written(self) -> None:
        """Take note that the guest wrote to the capability: Enable and Function Mask."""
        control = MsixControl.unpack(self._config.get(self._control_at, 2))
        self._on = bool(control.enable)
        was_live, self._live = self._live, self._on and not control.function_mask
        if self._live and not was_live:
            for index in range(self.count):
                self._latch(index)

    def _latch(self, index: int) -> None:
        if not self._table.mask_bit(index):
            self._latched[index] = self._table.message(index)

    def enabled(self, index: int) -> bool:
        """Whether MSI-X is on."""
        return self._on

    def masked(self, index: int, *, wired: bool = False) -> bool:
        """Whether the Function Mask bit is set, or the entry's own where the table is ours."""
        return not self._live or (not wired and self._table.mask_bit(index))

    def message(self, index: int) -> Message:
        """Return the message as it was when the entry was last unmasked."""
        return self._latched[index]

    def table_read(self, offset: int, count: int) -> bytes | None:
        """Return bytes of the table, None when the access is not allowed."""
        return self._table.read(offset, count) if self._table.allows(offset, count) else None

    def table_write(self, offset: int, data: bytes) -> bool:
        """Write to the table; False when the access is not allowed."""
        if not self._table.allows(offset, len(data)):
            return False
        index, start = divmod(offset, ENTRY_SIZE)
        was_masked = self._table.mask_bit(index)
        if start + len(data) > CONTROL_OFFSET:
            # All of the control dword but the mask bit is reserved and stays zero.
            control = int.from_bytes(data[-4:], "little") & MASK_BIT
            data = data[:-4] + control.to_bytes(4, "little")
        self._table.write(offset, data)
        if was_masked and self._live:
            self._latch(index)
        return True

    def pba_read(self, offset: int, count: int) -> bytes | None:
        """Return bytes of the pending bit array, None when the access is not allowed.

        The array is as long as the table needs, in quadwords (7.7.2.9).
        """
        if (
            count in (4, 8)
            and offset % count == 0
            and offset + count <= (self.count + 63) // 64 * 8
        ):
            return self.pending_bytes(offset, count)
        return None

    def reset(self) -> None:
        """Return to the state after power-on; config space is reset by its owner."""
        self.pending.clear()
        self._table.reset()
        self._latched = [NULL_MESSAGE] * self.count
        self._on = self._live = False
