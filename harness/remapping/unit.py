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

    def read(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes as they stand at one moment; both are multiples of four."""


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
    first = registers.read(0, Register.FSTS + 4)
    capability = Capability.unpack(_register(first, Register.CAP, 8))
    fault_status = FaultStatus.unpack(_register(first, Register.FSTS, 4))
    return UnitState(
        version=Version.unpack(_register(first, Register.VER, 4)),
        capability=capability,
        extended_capability=ExtendedCapability.unpack(_register(first, Register.ECAP, 8)),
        status=GlobalStatus.unpack(_register(first, Register.GSTS, 4)),
        fault_status=fault_status,
        table=TableAddress.unpack(_register(registers.read(Register.IRTA, 8), 0, 8)),
        faults=_pending_faults(registers, capability) if fault_status.pending else (),
    )


def read_fault_status(registers: RegisterReader) -> FaultStatus:
    """Return FSTS_REG alone."""
    return FaultStatus.unpack(_register(registers.read(Register.FSTS, 4), 0, 4))


def _pending_faults(registers: RegisterReader, capability: Capability) -> tuple[FaultRecord, ...]:
    first = capability.fault_register_offset * REGISTER_OFFSET_UNIT
    count = (capability.fault_registers + 1) * FAULT_RECORD_SIZE
    raw = registers.read(first, count)
    records = (
        FaultRecord.unpack(_register(raw, offset, FAULT_RECORD_SIZE))
        for offset in range(0, count, FAULT_RECORD_SIZE)
    )
    return tuple(record for record in records if record.fault)


def _register(raw: bytes, offset: int, size: int) -> int:
    return int.from_bytes(raw[offset : offset + size], "little")


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
