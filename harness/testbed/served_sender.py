# Ref: QEMU hw/vfio/pci.c (vfio_msi_interrupt, vfio_msix_vector_do_use, vfio_pci_write_config),
#      hw/pci/msi.c (msi_notify, msi_write_config), hw/pci/msix.c (msix_notify,
#      msix_handle_mask_update), hw/pci/pci.c (pci_default_write_config)
"""What QEMU sends for a function that is served over vfio-user, as its log tells it.

A line says that an interrupt has come from the function, with the address and data of its entry.
QEMU holds it back all the same while it is masked, to send what is there when it is unmasked; and
it drops it while bus mastering is off. The model of a function does not raise then, but the guest
may write just after it has.

A reset of the bus has no line. What the guest has not written since then is not known: QEMU sends
more than is told here, if anything.
"""

from __future__ import annotations

import copy
import re
from typing import Final

from harness.pci.config_space import ConfigSpace
from harness.pci.message_table import ENTRY_SIZE, MessageTable
from harness.qemu.trace import MSIX_TABLE
from harness.spec.msi import Message
from harness.spec.pci import (
    BAR_ADDRESS_MASK,
    CapabilityId,
    Header,
    MsiControl,
    MsixControl,
    MsixLocation,
    RequesterId,
    msi_offsets,
)

_FIRED: Final = re.compile(r" vector (?P<vector>\d+) (?P<address>0x\w+)/(?P<data>0x\w+)$")
_USED: Final = re.compile(r" vector (?P<vector>\d+) used$")
_CONFIG: Final = re.compile(r", @(?P<offset>0x\w+), (?P<value>0x\w+), len=(?P<size>0x\w+)\)")
_TABLE: Final = re.compile(
    rf" addr (?P<address>0x\w+) value (?P<value>0x\w+) size (?P<size>\d+) name '{MSIX_TABLE}'"
)


class ServedSender:
    """A function that is served over vfio-user, from when its log is followed.

    :param requester: the source id of its messages.
    :param config: its config space.
    """

    def __init__(self, requester: RequesterId, config: ConfigSpace):
        self.requester = requester
        self._config = copy.deepcopy(config)
        """As QEMU has it: a function level reset of the function's is none of QEMU's."""
        has = self._config.capabilities
        self._msi = _Msi(self._config) if CapabilityId.MSI in has else None
        self._msix = _Msix(self._config) if CapabilityId.MSIX in has else None
        self._firing_masked = False

    def take(self, event: str, text: str) -> list[Message]:
        """Take note of a line about this function; return what QEMU sends because of it."""
        sent = self._note(event, text)
        return sent if self._config.bus_master else []

    def table_written(self, text: str) -> None:
        """Take note of a write to an MSI-X table, if it is this function's."""
        if self._msix and (write := _TABLE.search(text)):
            value = int(write["value"], 16).to_bytes(int(write["size"]), "little")
            self._msix.write(int(write["address"], 16), value)

    def _note(self, event: str, text: str) -> list[Message]:
        if event == "vfio_pci_write_config":
            return self._config_written(text)
        if event == "vfio_msix_pba_enable":
            self._firing_masked = True  # logged just before the vector
        elif event == "vfio_msi_disable" and self._msi:
            self._msi.pending.clear()
        elif event == "vfio_msix_disable" and self._msix:
            self._msix.pending.clear()
        elif event == "vfio_msi_interrupt":
            return self._fire(text)
        elif event == "vfio_msix_vector_do_use" and self._msix and (used := _USED.search(text)):
            return self._msix.used(int(used["vector"]))
        return []

    def _fire(self, text: str) -> list[Message]:
        fired = _FIRED.search(text)
        assert fired is not None
        vector = int(fired["vector"])
        message = Message(int(fired["address"], 16), int(fired["data"], 16))
        masked, self._firing_masked = self._firing_masked, False
        if masked:
            if self._msix:
                self._msix.hold_back(vector, message)
            return []
        if self._msi and self._msi.holds_back(vector):
            return []
        return [message]

    def _config_written(self, text: str) -> list[Message]:
        write = _CONFIG.search(text)
        assert write is not None
        offset, size, value = (int(write[group], 16) for group in ("offset", "size", "value"))
        self._config.write(offset, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))
        if self._msi and self._config.covers(CapabilityId.MSI, offset, size):
            return self._msi.unmasked()
        return []


class _Msi:
    """What QEMU holds back behind the mask bits of MSI."""

    def __init__(self, config: ConfigSpace):
        self._config = config
        self._place = config.capabilities[CapabilityId.MSI].offset
        control = self._control
        self._registers = msi_offsets(
            address_64bit=bool(control.address_64bit), per_vector_mask=bool(control.per_vector_mask)
        )
        self.pending: set[int] = set()

    @property
    def _control(self) -> MsiControl:
        return MsiControl.unpack(self._config.get(self._place + 2, 2))

    def holds_back(self, vector: int) -> bool:
        """Return whether a vector that fires is masked."""
        masked = self._control.enable and self._get("mask") >> vector & 1
        if masked:
            self.pending.add(vector)
        return bool(masked)

    def unmasked(self) -> list[Message]:
        """Return what is sent after a write to the capability."""
        control = self._control
        if not control.enable:
            return []
        count = 1 << min(control.multiple_message_enable, control.multiple_message_capable)
        self.pending.intersection_update(range(count))
        mask, base = self._get("mask"), self._get("data") & ~(count - 1)
        address = self._get("address_high") << 32 | self._get("address_low")
        vectors = sorted(vector for vector in self.pending if not mask >> vector & 1)
        self.pending.difference_update(vectors)
        return [Message(address, base | vector) for vector in vectors]

    def _get(self, name: str) -> int:
        offset, size = self._registers.get(name, (0, 0))
        return self._config.get(self._place + offset, size)


class _Msix:
    """What QEMU holds back behind the masks of MSI-X, and the entries of that."""

    def __init__(self, config: ConfigSpace):
        self._config = config
        place = config.capabilities[CapabilityId.MSIX].offset
        count = MsixControl.unpack(config.get(place + 2, 2)).table_size + 1
        self._table = MessageTable(bytearray(count * ENTRY_SIZE), count)
        location = MsixLocation.unpack(config.get(place + 4, 4))
        self._bar = Header.BAR0 + 4 * location.bar_index
        self._offset = 8 * location.offset
        self.pending: set[int] = set()

    def write(self, address: int, data: bytes) -> None:
        """Take note of a write to any MSI-X table."""
        start = (self._config.get(self._bar, 4) & BAR_ADDRESS_MASK) + self._offset
        if address >= start and self._table.allows(address - start, len(data)):
            self._table.write(address - start, data)

    def hold_back(self, vector: int, message: Message) -> None:
        """Take note that a masked vector has fired, whose entry holds this message."""
        self.pending.add(vector)
        entry = vector * ENTRY_SIZE
        self._table.write(entry, message.address.to_bytes(8, "little"))
        self._table.write(entry + 8, message.data.to_bytes(4, "little"))

    def used(self, vector: int) -> list[Message]:
        """Return what is sent when a vector is unmasked, or used for the first time."""
        if vector not in self.pending:
            return []
        self.pending.remove(vector)
        return [self._table.message(vector)]
