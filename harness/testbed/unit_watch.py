# Ref: VT-d Architecture Specification, Rev. 5.10, sections 11.4.4.1 (GCMD_REG) and 11.4.10
#      (IRTA_REG).
"""A machine's VT-d unit at any moment, for whoever must not wait for QEMU."""

from __future__ import annotations

import errno
import re
import threading
from dataclasses import replace
from typing import Final, NamedTuple

from harness.qemu.trace import LogTail
from harness.remapping.entry_cache import EntryCache, StaleEntry
from harness.remapping.unit import PhysicalMemory, RemappingTable, UnitState
from harness.spec.vtd import GlobalStatus, Register, TableAddress

_EVENT: Final = re.compile(
    r"(?P<write>vtd_reg_write) addr (?P<register>\S+) size (?P<size>\S+) value (?P<value>\S+)"
    r"|(?P<invalidate>vtd_inv_desc_iec) granularity (?P<selective>\S+)"
    r" index (?P<index>\S+) mask (?P<mask>\S+)"
    r"|(?P<wait>vtd_inv_desc_wait_(?:sw|irq)) "
    r"|(?P<reset>vtd_reset_exit)"
)


class UsedEntry(NamedTuple):
    """An IRTE that a message makes the unit use."""

    unit: UnitState
    """Its state: the same object until it changes."""
    cached: bytes
    """The entry as the unit uses it."""
    current: bytes
    """As it stands in the table."""


class UnitWatch:
    """Follows what the guest asks of the unit. Any thread may ask at any moment.

    The monitor answers in QEMU's main loop, which may be waiting for the very device that asks. So
    the registers are read once, by whoever makes the watch, and from then on QEMU's log is read:
    what the guest does is in it before the instruction that did it has ended. A kernel that takes
    the unit over from another (kexec) is seen so.

    :param trace: QEMU's log of ``UNIT_EVENTS``, from a moment before ``unit`` was read.
    """

    def __init__(self, unit: UnitState, memory: PhysicalMemory, trace: LogTail):
        self._trace = trace
        self._memory = memory
        self._lock = threading.Lock()
        self._unit = replace(unit, faults=())
        self._table = RemappingTable.of(unit, memory)
        self._address = unit.table.value
        """IRTA_REG as last written: the unit takes it over at Set Interrupt Remap Table Pointer."""
        self._cache = EntryCache(absent=bool(unit.capability.caching_mode))
        self._left_stale: set[int] = set()
        """Entries that were stale when an operation of the guest had returned."""

    def state(self) -> UnitState:
        """Return the unit's state now, less its faults: the unit itself writes those."""
        with self._lock:
            self._follow()
            return self._unit

    def entry(self, index: int) -> UsedEntry:
        """Return an IRTE as the unit uses it, and as it stands in the table.

        The two differ once a change was left without its invalidation, which is when
        :meth:`stale_entries` names it. Between a change and an invalidation that is still to come
        the unit may use either. Here it is the new one: a message by the old one is on its way
        while the invalidation completes, which on hardware waits for such messages (VT-d,
        "Interrupt Draining"), and QEMU's does not.

        :raises OSError: the table has no such entry, or is not in memory.
        """
        with self._lock:
            self._follow()
            if index >= self._table.entries:
                raise OSError(errno.EFAULT, f"no IRTE {index} in a table of {self._table.entries}")
            current = self._table.read_raw(index)
            cached = self._cache.fetch(index, lambda: current)
            used = cached if index in self._left_stale else current
            return UsedEntry(self._unit, used, current)

    def stale_entries(self) -> list[StaleEntry]:
        """Return the IRTEs that were changed or freed, and that the unit may use as they were.

        What is compared is the whole table, since it was last looked at so; each entry counts as
        used at every look. An operation that is under way in the guest may be between a change and
        its invalidation: ask when what was to be judged has returned.

        :raises OSError: the table is not in memory.
        """
        with self._lock:
            self._follow()
            if not self._unit.remapping_enabled:
                return []
            table = self._table.read_all()
            self._cache.observe(table)
            # What was invalidated since may have changed before the table was read.
            self._follow()
            stale = self._cache.stale(table)
            self._left_stale = {entry.index for entry in stale}
            return stale

    def invalidate(self) -> None:
        """Let the unit forget every entry: for whoever changes the table behind the guest's back.

        A kernel that puts such a change into force would queue a global invalidation.
        """
        with self._lock:
            self._follow()
            self._cache.invalidate_all()
            self._cache.complete()

    def _follow(self) -> None:
        if new := self._trace.read():
            for event in _EVENT.finditer(new):
                self._note(event)

    def _note(self, event: re.Match[str]) -> None:
        if event["write"]:
            self._write(int(event["register"], 16), int(event["size"], 16), int(event["value"], 16))
        elif event["wait"]:
            self._cache.complete()
            self._left_stale = set(filter(self._cache.holds, self._left_stale))
        elif event["reset"]:
            self._address = 0
            self._cache.clear()
            self._change(GlobalStatus(), TableAddress())
        elif int(event["selective"], 16):
            self._cache.invalidate(int(event["index"], 16), int(event["mask"], 16))
        else:
            self._cache.invalidate_all()

    def _write(self, register: int, size: int, value: int) -> None:
        if register == Register.GCMD:
            self._command(GlobalStatus.unpack(value))  # its bits stand where their status does
        elif register in (Register.IRTA, Register.IRTA + 4):
            shift = (register - Register.IRTA) * 8
            mask = (1 << size * 8) - 1 << shift
            self._address = self._address & ~mask | value << shift & mask

    def _command(self, command: GlobalStatus) -> None:
        table = self._unit.table
        if command.remap_table_pointer_set:
            table = TableAddress.unpack(self._address)
            if self._unit.capability.set_remap_table_invalidates:
                self._cache.clear()
        status = self._unit.status.replace(remapping_enabled=command.remapping_enabled)
        self._change(status, table)

    def _change(self, status: GlobalStatus, table: TableAddress) -> None:
        self._unit = replace(self._unit, status=status, table=table)
        self._table = RemappingTable.of(self._unit, self._memory)
