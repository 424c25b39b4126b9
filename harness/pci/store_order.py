# Ref: PCI Express 6.0, 7.7.2 (MSI-X: "software must not modify the Address, Data, or Steering Tag
#      fields of an entry while it is unmasked"); Linux da181dc974ad ("PCI/MSI: Enforce MSI[X] entry
#      updates to be visible"), b9255a7cb517 ("PCI/MSI: Enforce that MSI-X table entry is masked for
#      update").
"""Row G2: the order in which a guest accesses its message stores. Pure: accesses in, faults out.

QEMU's MSI-X takes a changed entry at once, and a mask as well. Hardware takes a message over when
the entry is unmasked, and a write reaches it some time later, unless something is read behind it.
So a guest that writes in another order gets its interrupts here, and only its accesses tell.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from harness.pci.message_table import CONTROL_OFFSET, ENTRY_SIZE, MASK_BIT
from harness.spec.interrupt import InterruptName, Store
from harness.spec.pci import MsixControl

_DWORD: Final = 4
_MESSAGE: Final = frozenset(range(0, CONTROL_OFFSET, _DWORD))
"""The dwords of an entry that are its message."""
_MSIX_CONTROL: Final = 2
"""Offset of Message Control in the MSI-X capability."""


@dataclass(frozen=True, slots=True)
class StoreAccess:
    """One trapped access of the guest to a store, wherever it was served."""

    when: int
    """Nanoseconds of CLOCK_MONOTONIC."""
    store: Store
    register: str
    """Name of what stands there, e.g. ``IMS[7].control``."""
    index: int | None
    """Entry of a table; None: a register of the capability, or a pending bit."""
    offset: int
    """Bytes from the beginning of the entry or capability."""
    size: int
    value: int
    write: bool

    def __str__(self) -> str:
        return f"{self.register} {'<-' if self.write else '->'} {self.value:#x}"

    def dword(self, offset: int) -> int | None:
        """Return what was written to a dword of the entry or capability, None: it was not."""
        if not self.offset <= offset < self.offset + self.size:
            return None
        return self.value >> 8 * (offset - self.offset) & 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Returned:
    """An operation of the guest has returned: what it did is in force."""

    when: int
    operation: str


class Disorder(enum.StrEnum):
    """What is wrong with an access."""

    CHANGED_LIVE = "the message is changed while the entry is live"
    HALF_A_MESSAGE = "unmasked before the whole message was written"
    MASK_NOT_READ_BACK = "masked, and nothing was read back before the operation returned"


@dataclass(frozen=True, slots=True)
class OutOfOrder:
    """One access that came at the wrong time."""

    disorder: Disorder
    interrupt: InterruptName
    access: StoreAccess

    def __str__(self) -> str:
        return f"{self.interrupt}: {self.disorder}: {self.access}"


@dataclass(slots=True)
class _Entry:
    masked: bool = True
    written: set[int] = field(default_factory=set)
    """Dwords of the message that were written since the entry was last live."""
    was_live: bool = False
    unread: StoreAccess | None = None
    """What masked it, until something is read back."""


def out_of_order(happened: Iterable[StoreAccess | Returned], store: Store) -> list[OutOfOrder]:
    """Return the accesses to the entries of a store that came at the wrong time, in order.

    :param happened: from a moment on at which every entry was masked, in the order of time.
    :param store: MSI-X or IMS: a table of entries that can be masked.
    """
    table = _Table(store)
    for item in happened:
        if isinstance(item, Returned):
            table.returned()
        elif item.store is store:
            table.access(item)
    return table.found


class _Table:
    def __init__(self, store: Store):
        self.found: list[OutOfOrder] = []
        self._store = store
        self._on = store is not Store.MSIX
        """Whether an entry that is not masked is live: MSI-X is enabled, and not masked whole."""
        self._entries: dict[int, _Entry] = {}

    def access(self, access: StoreAccess) -> None:
        if access.index is None:
            self._control(access)
        elif access.write:
            self._write(access, self._entries.setdefault(access.index, _Entry()), access.index)
        else:
            for entry in self._entries.values():  # it comes back behind every write before it
                entry.unread = None

    def returned(self) -> None:
        for index, entry in self._entries.items():
            if entry.unread:
                self._find(Disorder.MASK_NOT_READ_BACK, index, entry.unread)
                entry.unread = None

    def _control(self, access: StoreAccess) -> None:
        word = access.dword(_MSIX_CONTROL) if access.write else None
        if self._store is not Store.MSIX or word is None or access.register.startswith("PBA"):
            return
        control = MsixControl.unpack(word & 0xFFFF)
        self._on = bool(control.enable) and not control.function_mask
        if self._on:
            for index, entry in self._entries.items():
                if not entry.masked:
                    self._go_live(access, entry, index)

    def _write(self, access: StoreAccess, entry: _Entry, index: int) -> None:
        message = {offset for offset in _MESSAGE if access.dword(offset) is not None}
        if message and self._on and not entry.masked:
            self._find(Disorder.CHANGED_LIVE, index, access)
        entry.written |= message
        control = access.dword(CONTROL_OFFSET)
        if control is None:
            return
        was_masked, entry.masked = entry.masked, bool(control & MASK_BIT)
        if not entry.masked:
            entry.unread = None
            if was_masked and self._on:
                self._go_live(access, entry, index)
        elif not was_masked:
            entry.unread = access

    def _go_live(self, access: StoreAccess, entry: _Entry, index: int) -> None:
        if entry.written != _MESSAGE and (entry.written or not entry.was_live):
            self._find(Disorder.HALF_A_MESSAGE, index, access)
        entry.written, entry.was_live = set(), True

    def _find(self, disorder: Disorder, index: int, access: StoreAccess) -> None:
        self.found.append(OutOfOrder(disorder, InterruptName(self._store, index), access))


def entry_place(offset: int) -> tuple[int, int]:
    """Return index and offset inside the entry of a place in a table."""
    return divmod(offset, ENTRY_SIZE)
