"""The state of one VT-d unit, read from its registers and from guest memory.

Who can read those is none of this module's business: it states what it needs as
:class:`RegisterReader` and :class:`PhysicalMemory`. It only looks and changes nothing, so it may be
used at any moment; a guest that runs meanwhile can change an entry between two reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from harness.spec.vtd import (
    ENTRY_SIZE,
    FAULT_RECORD_SIZE,
    REGISTER_OFFSET_UNIT,
    Capability,
    Entry,
    ExtendedCapability,
    FaultRecord,
    FaultStatus,
    GlobalStatus,
    Register,
    TableAddress,
    Version,
    decode_entry,
)


class RegisterReader(Protocol):
    """Reads the registers of one unit, by offset from its base."""

    def read32(self, offset: int) -> int:
        """Return a 32-bit register."""

    def read64(self, offset: int) -> int:
        """Return a 64-bit register."""


class PhysicalMemory(Protocol):
    """Reads guest-physical memory."""

    def read(self, address: int, count: int) -> bytes:
        """Return ``count`` bytes.

        :raises OSError: there is no memory there.
        """


@dataclass(frozen=True, slots=True)
class UnitState:
    """The registers of one unit, decoded, as they stood at one moment."""

    version: Version
    capability: Capability
    extended_capability: ExtendedCapability
    status: GlobalStatus
    fault_status: FaultStatus
    table: TableAddress
    faults: tuple[FaultRecord, ...]
    """Pending faults, in register order (those with F set)."""

    @property
    def remapping_enabled(self) -> bool:
        """Whether interrupt messages go through the table (GSTS_REG.IRES)."""
        return bool(self.status.remapping_enabled)

    @property
    def extended_mode(self) -> bool:
        """Whether destinations are 32-bit APIC ids (IRTA_REG.EIME, x2APIC mode)."""
        return bool(self.table.extended_mode)

    @property
    def compatibility_blocked(self) -> bool:
        """Whether a compatibility-format message is a fault (section 5.1.4)."""
        return self.remapping_enabled and (
            self.extended_mode or not self.status.compatibility_format
        )


def read_unit(registers: RegisterReader) -> UnitState:
    """Return the state of a unit, pending faults included."""
    capability = Capability.unpack(registers.read64(Register.CAP))
    fault_status = FaultStatus.unpack(registers.read32(Register.FSTS))
    return UnitState(
        version=Version.unpack(registers.read32(Register.VER)),
        capability=capability,
        extended_capability=ExtendedCapability.unpack(registers.read64(Register.ECAP)),
        status=GlobalStatus.unpack(registers.read32(Register.GSTS)),
        fault_status=fault_status,
        table=TableAddress.unpack(registers.read64(Register.IRTA)),
        faults=_pending_faults(registers, capability) if fault_status.pending else (),
    )


def _pending_faults(registers: RegisterReader, capability: Capability) -> tuple[FaultRecord, ...]:
    first = capability.fault_register_offset * REGISTER_OFFSET_UNIT
    offsets = range(
        first, first + (capability.fault_registers + 1) * FAULT_RECORD_SIZE, FAULT_RECORD_SIZE
    )
    records = (
        FaultRecord.unpack(registers.read64(offset) | registers.read64(offset + 8) << 64)
        for offset in offsets
    )
    return tuple(record for record in records if record.fault)


# Maps the first byte of an entry to its Present bit.
_PRESENT: Final = bytes(value & 1 for value in range(256))


@dataclass(frozen=True, slots=True)
class RemappingTable:
    """An interrupt remapping table in guest memory."""

    memory: PhysicalMemory
    address: int
    entries: int

    @classmethod
    def of(cls, unit: UnitState, memory: PhysicalMemory) -> RemappingTable:
        """Return the table that a unit's IRTA register names."""
        return cls(memory, unit.table.address, unit.table.entries)

    def read_entry(self, index: int) -> Entry:
        """Return one entry.

        :raises IndexError: the table has no such entry.
        :raises OSError: the table is not in memory.
        """
        return decode_entry(self.read_raw(index))

    def read_raw(self, index: int) -> bytes:
        """Return one entry as it stands in memory.

        :raises Exception: as :meth:`read_entry`.
        """
        if not 0 <= index < self.entries:
            raise IndexError(f"IRTE {index:#x} of a table of {self.entries}")
        return self.memory.read(self.address + index * ENTRY_SIZE, ENTRY_SIZE)

    def read_all(self) -> bytes:
        """Return the whole table as it stands in memory.

        :raises OSError: the table is not in memory.
        """
        return self.memory.read(self.address, self.entries * ENTRY_SIZE)

    def present_entries(self) -> dict[int, Entry]:
        """Return every entry whose Present bit is set, by index.

        The table is read as a whole and entries are sought by their first bytes, so that an almost
        empty table of 64K entries costs its copy and little more.

        :raises OSError: the table is not in memory.
        """
        raw = self.read_all()
        present = raw[::ENTRY_SIZE].translate(_PRESENT)
        found = {}
        index = present.find(1)
        while index >= 0:
            offset = index * ENTRY_SIZE
            found[index] = decode_entry(raw[offset : offset + ENTRY_SIZE])
            index = present.find(1, index + 1)
        return found
