"""PCI MSI: the behaviour behind the capability's bits in config space (PCI Express 6.0, 7.7.1)."""

from __future__ import annotations

from harness.pci.config_space import ConfigSpace
from harness.pci.store import PendingBits
from harness.spec.msi import Message
from harness.spec.pci import CapabilityId, MsiControl, msi_offsets


class MsiStore(PendingBits):
    """State of MSI. The registers live in config space; the number of messages is latched.

    :param config: the function's config space, which has the capability.
    """

    def __init__(self, config: ConfigSpace):
        super().__init__()
        self._config = config
        self._place = config.capabilities[CapabilityId.MSI].offset
        control = MsiControl.unpack(config.get(self._place + 2, 2))
        self.capable = 1 << control.multiple_message_capable
        """Messages that the function can use."""
        self._registers = msi_offsets(
            address_64bit=bool(control.address_64bit),
            per_vector_mask=bool(control.per_vector_mask),
        )
        self._log2 = 0
        self._was_enabled = False

    def _get(self, name: str) -> int:
        # A register that this shape of the capability does not have reads zero.
        if name not in self._registers:
            return 0
        offset, size = self._registers[name]
        return self._config.get(self._place + offset, size)

    @property
    def granted(self) -> int:
        """Messages granted when MSI was last enabled; 0 while it is off."""
        return 1 << self._log2 if self._was_enabled else 0

    def registers_written(self) -> None:
        """Take note that the guest wrote to the capability.

        The number of messages is latched when Enable goes from 0 to 1 and only then; more than the
        function can use is cut down to that. Disabling forgets what is pending.
        """
        control = MsiControl.unpack(self._get("control"))
        if control.enable and not self._was_enabled:
            most = self.capable.bit_length() - 1
            self._log2 = min(control.multiple_message_enable, most)
        self._was_enabled = bool(control.enable)

    def enabled(self, index: int) -> bool:
        """Whether MSI is on and was granted this message."""
        return index < self.granted

    def masked(self, index: int, *, wired: bool = False) -> bool:
        """Whether the per-vector mask bit is set; it is in config space and holds, wired or not."""
        return bool(self._get("mask") >> index & 1)

    def message(self, index: int) -> Message:
        """Return the base message with the low bits of its data replaced by ``index``."""
        address = self._get("address_high") << 32 | self._get("address_low")
        low = (1 << self._log2) - 1
        return Message(address, self._get("data") & ~low | index & low)

    def set_pending(self, index: int, pending: bool) -> None:
        """Set or clear a pending bit; this shape of the capability may have a register for them."""
        super().set_pending(index, pending)
        if "pending" in self._registers:
            offset, size = self._registers["pending"]
            value = int.from_bytes(self.pending_bytes(0, size), "little")
            self._config.set(self._place + offset, size, value)

    def reset(self) -> None:
        """Return to the state after power-on; config space is reset by its owner."""
        self.pending.clear()
        self._log2 = 0
        self._was_enabled = False
