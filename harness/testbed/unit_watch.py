# Ref: VT-d Architecture Specification, Rev. 5.10, sections 11.4.4.1 (GCMD_REG) and 11.4.10
#      (IRTA_REG); QEMU 11.1, hw/i386/trace-events (vtd_reg_write, vtd_reset_exit).
"""The state of a machine's VT-d unit at any moment, for whoever must not wait for QEMU."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from typing import Final

from harness.qemu.trace import TraceTail
from harness.remapping.unit import UnitState
from harness.spec.vtd import GlobalStatus, Register, TableAddress

EVENTS: Final = ("vtd_reg_write", "vtd_reset_exit")
"""What QEMU has to log: the guest's writes to the unit's registers, and the unit's reset."""

_EVENT: Final = re.compile(
    r"vtd_reg_write addr (0x[0-9a-f]+) size (0x[0-9a-f]+) value (0x[0-9a-f]+)|vtd_reset_exit"
)


class UnitWatch:
    """Follows what the guest writes to the unit's registers. Any thread may ask at any moment.

    The monitor answers in QEMU's main loop, which may be waiting for the very device that asks. So
    the registers are read once, by whoever makes the watch, and from then on QEMU's log is read:
    the guest's write is in it before the instruction that wrote has ended. A kernel that takes the
    unit over from another (kexec) is seen so.

    :param trace: QEMU's log of :data:`EVENTS`, from a moment before ``unit`` was read.
    """

    def __init__(self, unit: UnitState, trace: TraceTail):
        self._trace = trace
        self._lock = threading.Lock()
        self._unit = replace(unit, faults=())
        self._address = unit.table.value
        """IRTA_REG as last written: the unit takes it over at Set Interrupt Remap Table Pointer."""

    def state(self) -> UnitState:
        """Return the unit's state now, less its faults: the unit itself writes those."""
        with self._lock:
            if new := self._trace.read():
                for event in _EVENT.finditer(new):
                    self._follow(event)
            return self._unit

    def _follow(self, event: re.Match[str]) -> None:
        if event[1] is None:
            self._address = 0
            self._change(GlobalStatus(), TableAddress())
            return
        register, size, value = (int(number, 16) for number in event.groups())
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
        status = self._unit.status.replace(remapping_enabled=command.remapping_enabled)
        self._change(status, table)

    def _change(self, status: GlobalStatus, table: TableAddress) -> None:
        self._unit = replace(self._unit, status=status, table=table)
