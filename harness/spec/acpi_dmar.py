# Ref: Intel Virtualization Technology for Directed I/O Architecture Specification, Rev. 5.10
#      (D51397-018): 8.1 "DMA Remapping Reporting Structure", 8.3 "DMA Remapping Hardware Unit
#      Definition Structure", 8.3.1 "Device Scope Structure". Revision 2 of the table is proposed in
#      docs/ims-policy.md, "The new format of the DMAR table".
"""The ACPI table DMAR: the remapping units of a platform, and what it says about IMS."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Self

from harness.spec.acpi import HEADER_SIZE, TableHeader

SIGNATURE: Final = "DMAR"
OLD_REVISION: Final = 1
NEW_REVISION: Final = 2
"""The proposed one, in which the table says whether IMS may be used."""

_FIXED: Final = struct.Struct("<BB10x")  # width - 1, flags
_STRUCTURE: Final = struct.Struct("<HH")  # type, length
_DRHD: Final = struct.Struct("<BxHQ")  # flags, segment, register base
_SCOPE: Final = struct.Struct("<BB2xBB")  # type, length, enumeration id, start bus


class DmarFlags(enum.IntFlag):
    """Byte 37."""

    INTR_REMAP = 1 << 0
    """The platform can remap interrupts."""
    X2APIC_OPT_OUT = 1 << 1
    """The firmware asks the system not to use x2APIC mode."""
    DMA_CTRL_PLATFORM_OPT_IN_FLAG = 1 << 2
    IMS_ALLOWED = 1 << 3
    """Revision 2: pairs that the kernel composes for an IMS work. Revision 1: reserved."""


class StructureType(enum.IntEnum):
    """Remapping structures that are taken apart here; others are carried as bytes."""

    DRHD = 0
    """A remapping hardware unit."""


class ScopeType(enum.IntEnum):
    """Kinds of device that a scope names."""

    PCI_ENDPOINT = 1
    PCI_SUB_HIERARCHY = 2
    IOAPIC = 3
    MSI_CAPABLE_HPET = 4
    ACPI_NAMESPACE_DEVICE = 5


@dataclass(frozen=True, slots=True)
class DeviceScope:
    """A device, by the way to it from a bus that is known."""

    type: int
    enumeration_id: int
    bus: int
    path: tuple[tuple[int, int], ...]
    """Device and function at each step."""

    def pack(self) -> bytes:
        """Return its bytes."""
        steps = b"".join(bytes(step) for step in self.path)
        length = _SCOPE.size + len(steps)
        return _SCOPE.pack(self.type, length, self.enumeration_id, self.bus) + steps


@dataclass(frozen=True, slots=True, kw_only=True)
class RemappingUnit:
    """A remapping hardware unit (DRHD)."""

    address: int
    """Of its registers."""
    scopes: tuple[DeviceScope, ...]
    include_pci_all: bool = True
    """Whether it has every device of the segment that no other unit names."""
    segment: int = 0

    def pack(self) -> bytes:
        """Return its bytes."""
        scopes = b"".join(scope.pack() for scope in self.scopes)
        length = _STRUCTURE.size + _DRHD.size + len(scopes)
        return (
            _STRUCTURE.pack(StructureType.DRHD, length)
            + _DRHD.pack(self.include_pci_all, self.segment, self.address)
            + scopes
        )

    @classmethod
    def unpack(cls, body: bytes) -> Self:
        """Return the unit of a structure's bytes behind type and length.

        :raises ValueError: they are cut short, or a scope's length is wrong.
        """
        if len(body) < _DRHD.size:
            raise ValueError(f"a DRHD of {_STRUCTURE.size + len(body)} bytes")
        flags, segment, address = _DRHD.unpack_from(body)
        return cls(
            address=address,
            scopes=tuple(_scopes(body[_DRHD.size :])),
            include_pci_all=bool(flags & 1),
            segment=segment,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dmar:
    """The table."""

    units: tuple[RemappingUnit, ...]
    address_width: int
    """Bits of a DMA address."""
    flags: DmarFlags
    header: TableHeader
    others: tuple[bytes, ...] = ()
    """Remapping structures of other types, whole; they stand behind the units."""

    @property
    def ims_allowed(self) -> bool | None:
        """What the table says about IMS; None: it is of the old format and says nothing."""
        if self.header.revision < NEW_REVISION:
            return None
        return DmarFlags.IMS_ALLOWED in self.flags

    def saying_ims(self, allowed: bool) -> Self:
        """Return the table in the new format.

        As an upgrade of the one that a kernel has: of the same maker, and of a later revision of
        his (Linux drivers/acpi/tables.c, acpi_table_initrd_override()).
        """
        header = replace(
            self.header, revision=NEW_REVISION, oem_revision=self.header.oem_revision + 1
        )
        flags = self.flags & ~DmarFlags.IMS_ALLOWED
        if allowed:
            flags |= DmarFlags.IMS_ALLOWED
        return replace(self, header=header, flags=flags)

    def pack(self) -> bytes:
        """Return the whole table."""
        structures = (*(unit.pack() for unit in self.units), *self.others)
        fixed = _FIXED.pack(self.address_width - 1, self.flags)
        return self.header.pack(fixed + b"".join(structures))

    @classmethod
    def unpack(cls, table: bytes) -> Self:
        """Return what a table says; of a later revision, what is known here.

        :raises ValueError: it is no sound DMAR table; says why.
        """
        header, body = TableHeader.unpack(table)
        if header.signature != SIGNATURE or len(body) < _FIXED.size:
            raise ValueError(f"{header.signature} of {len(table)} bytes is no {SIGNATURE} table")
        width, flags = _FIXED.unpack_from(body)
        units, others = [], []
        for kind, structure in _structures(table, HEADER_SIZE + _FIXED.size):
            if kind == StructureType.DRHD:
                units.append(RemappingUnit.unpack(structure[_STRUCTURE.size :]))
            else:
                others.append(structure)
        return cls(
            units=tuple(units),
            address_width=width + 1,
            flags=DmarFlags(flags),
            header=header,
            others=tuple(others),
        )


def _structures(table: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield type and bytes of each remapping structure."""
    while offset < len(table):
        if offset + _STRUCTURE.size > len(table):
            raise ValueError(f"{SIGNATURE}: half a structure at {offset:#x}")
        kind, length = _STRUCTURE.unpack_from(table, offset)
        if length < _STRUCTURE.size or offset + length > len(table):
            raise ValueError(f"{SIGNATURE}: a structure of {length} bytes at {offset:#x}")
        yield kind, table[offset : offset + length]
        offset += length


def _scopes(data: bytes) -> Iterator[DeviceScope]:
    offset = 0
    while offset < len(data):
        if offset + _SCOPE.size > len(data):
            raise ValueError(f"{SIGNATURE}: half a device scope")
        kind, length, enumeration_id, bus = _SCOPE.unpack_from(data, offset)
        if length < _SCOPE.size or length % 2 or offset + length > len(data):
            raise ValueError(f"{SIGNATURE}: a device scope of {length} bytes")
        steps = data[offset + _SCOPE.size : offset + length]
        path = tuple(zip(steps[::2], steps[1::2], strict=True))
        yield DeviceScope(kind, enumeration_id, bus, path)
        offset += length
