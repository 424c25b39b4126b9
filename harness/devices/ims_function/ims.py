"""The Interrupt Message Store: an array of messages in device memory, trapped or mapped."""

from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import replace

from harness.pci.message_table import MessageTable
from harness.pci.store import PendingBits
from harness.spec.ims_function import BAR_IMS_SIZE, IMS_PENDING_SIZE, ImsControl
from harness.spec.msi import Message


class ImsStore(PendingBits):
    """State of the IMS array. It has no enable bit: the mask bit of each entry is all there is.

    The device reads an entry whenever it sends its message, and keeps no copy: with a mapped array
    no access would tell it that an entry has changed.

    :param count: entries in the array.
    :param mapped: put the array into a memory file that the client can map; :meth:`close` ends it.
    """

    def __init__(self, count: int, *, mapped: bool):
        super().__init__()
        self.fd: int | None = None
        """The file that backs the whole BAR when the array is mapped; owned here."""
        self._mapping: mmap.mmap | None = None
        buffer: bytearray | mmap.mmap = bytearray(BAR_IMS_SIZE)
        if mapped:
            self.fd = os.memfd_create("ims", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self.fd, BAR_IMS_SIZE)
            # The client is given this very file: could it cut it short, we would die of SIGBUS.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
            buffer = self._mapping = mmap.mmap(self.fd, BAR_IMS_SIZE)
        self._table = MessageTable(buffer, count)

    def close(self) -> None:
        """Give the memory file back; nothing may be read any more."""
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def enabled(self, index: int) -> bool:
        """Whether the array may send: always."""
        return True

    def masked(self, index: int, *, wired: bool = False) -> bool:
        """Whether the entry's mask bit is set."""
        return self._table.mask_bit(index)

    def message(self, index: int) -> Message:
        """Return the message that stands in the entry now, with its PASID."""
        message = self._table.message(index)
        control = ImsControl.unpack(self._table.control(index))
        return replace(message, pasid=control.pasid) if control.pasid_valid else message

    def read(self, offset: int, count: int) -> bytes | None:
        """Return bytes of the array, None when the access is not allowed."""
        return self._table.read(offset, count) if self._table.allows(offset, count) else None

    def write(self, offset: int, data: bytes) -> bool:
        """Write to the array; False when the access is not allowed."""
        allowed = self._table.allows(offset, len(data))
        if allowed:
            self._table.write(offset, data)
        return allowed

    def pending_word(self, offset: int) -> int:
        """Return the dword at ``offset`` of the IMS_PENDING registers."""
        assert 0 <= offset < IMS_PENDING_SIZE
        return int.from_bytes(self.pending_bytes(offset, 4), "little")

    def reset(self) -> None:
        """Mask every entry, and forget what is pending."""
        self.pending.clear()
        self._table.reset()
