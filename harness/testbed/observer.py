"""The host's side of a machine: what it remaps, what it traps, what stands in guest memory."""

from __future__ import annotations

import contextlib
from typing import Final

from harness.errors import CheckFailed, HarnessError
from harness.qemu.machine import Machine
from harness.qemu.memory import GuestRam
from harness.qemu.trace import TrappedAccesses
from harness.remapping.unit import RemappingTable, UnitState, read_fault_status, read_unit
from harness.spec.vtd import FaultStatus
from harness.testbed.invalidation_oracle import InvalidationOracle
from harness.testbed.platform import no_remapping
from harness.testbed.unit_watch import UnitWatch

IOMMU_BASE: Final = 0xFED9_0000
"""Registers of the machine's VT-d unit (QEMU hw/i386/intel_iommu, Q35_HOST_BRIDGE_IOMMU_ADDR)."""


class Observer:
    """Looks at a machine from where its hypervisor stands; the guest does not notice."""

    def __init__(self, machine: Machine):
        self._machine = machine
        self._watch: UnitWatch | None = None
        self.invalidations: InvalidationOracle | None = None
        """What judges the guest's changes of IRTEs, from the first :meth:`unit_watch` on."""

    @property
    def memory(self) -> GuestRam:
        """Guest memory, by guest physical address."""
        return self._machine.memory

    def unit(self) -> UnitState | None:
        """Return the state of the VT-d unit, None when the machine has none."""
        if self._machine.spec.iommu is None:
            return None
        return read_unit(self._machine.registers(IOMMU_BASE))

    def fault_status(self) -> FaultStatus:
        """Return what the VT-d unit has recorded; nothing when the machine has none.

        One look at one register: PPF says whether any fault record is pending.
        """
        if self._machine.spec.iommu is None:
            return FaultStatus()
        return read_fault_status(self._machine.registers(IOMMU_BASE))

    def unit_watch(self) -> UnitWatch | None:
        """Return what follows the unit from now on, for other threads; None without a unit."""
        if self._watch is None and self._machine.spec.iommu is not None:
            trace = self._machine.followed_trace()
            unit = read_unit(self._machine.registers(IOMMU_BASE))
            self._watch = UnitWatch(unit, self.memory, trace)
            self.invalidations = InvalidationOracle(self._watch)
        return self._watch

    def check_invalidations(self) -> None:
        """Look whether every IRTE that changed was invalidated, whichever device's it is.

        What changed since the unit was first watched, or last checked, is judged, after each
        operation of the guest. Now nothing that changes an IRTE may be under way in the guest.

        :raises CheckFailed: some were not, or nobody waited for it; each is named as it was and is.
        """
        if self.invalidations is None:
            return
        try:
            self.invalidations.check()
        except OSError as error:
            self._machine.vitals.check()
            raise CheckFailed(f"the remapping table cannot be read: {error}") from error

    def table(self) -> RemappingTable:
        """Return the interrupt remapping table in guest memory.

        :raises CheckFailed: the guest has not enabled remapping.
        :raises HarnessError: the machine has none.
        """
        unit = self.unit()
        if unit is None or not unit.remapping_enabled:
            spec = self._machine.spec
            if spec.remaps_interrupts:
                raise no_remapping(spec)
            raise HarnessError(f"the machine {spec.name} has no interrupt remapping")
        return RemappingTable.of(unit, self.memory)

    def trapped_accesses(self) -> contextlib.AbstractContextManager[TrappedAccesses]:
        """Count the guest's accesses that end inside QEMU while this is held."""
        return self._machine.trapped_accesses()
