# Ref: ACPI specification 6.5, 5.2.6 "System Description Table Header" and 5.2.3.2 (little-endian)
"""ACPI tables as bytes: the header that each begins with, its length and its check sum."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

HEADER_SIZE: Final = 36
CHECKSUM_OFFSET: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class TableHeader:
    """What a table says of itself; its length and check sum follow from the bytes."""

    signature: str
    revision: int
    """Of the layout behind the header."""
    oem_id: str = "IMSH  "
    oem_table_id: str = "IMSH    "
    oem_revision: int = 1
    creator_id: str = "IMSH"
    creator_revision: int = 1

    #                                        sig len rev sum oem table orev creator crev
    FORMAT: ClassVar[struct.Struct] = struct.Struct("<4sIBB6s8sI4sI")

    def pack(self, body: bytes) -> bytes:
        """Return the whole table, with its length and check sum.

        :raises ValueError: a text is not as long as its field.
        """
        header = self.FORMAT.pack(
            _text(self.signature, 4), HEADER_SIZE + len(body), self.revision, 0,
            _text(self.oem_id, 6), _text(self.oem_table_id, 8), self.oem_revision,
            _text(self.creator_id, 4), self.creator_revision,
        )  # fmt: skip
        return sealed(header + body)

    @classmethod
    def unpack(cls, table: bytes) -> tuple[Self, bytes]:
        """Return the header of a table, and what is behind it.

        :raises ValueError: its length or its check sum is wrong; says what.
        """
        if len(table) < HEADER_SIZE:
            raise ValueError(f"{len(table)} bytes hold no ACPI table header of {HEADER_SIZE}")
        signature, length, revision, _, *maker = cls.FORMAT.unpack_from(table)
        oem_id, oem_table_id, oem_revision, creator_id, creator_revision = maker
        name = signature.decode("latin-1")
        if length != len(table):
            raise ValueError(f"{name}: the header says {length} bytes, there are {len(table)}")
        if total := sum(table) & 0xFF:
            raise ValueError(f"{name}: the bytes add up to {total:#04x} instead of 0")
        header = cls(
            signature=name,
            revision=revision,
            oem_id=oem_id.decode("latin-1"),
            oem_table_id=oem_table_id.decode("latin-1"),
            oem_revision=oem_revision,
            creator_id=creator_id.decode("latin-1"),
            creator_revision=creator_revision,
        )
        return header, table[HEADER_SIZE:]


def sealed(table: bytes) -> bytes:
    """Return a table with the check sum that its bytes ask for."""
    checksum = (table[CHECKSUM_OFFSET] - sum(table)) & 0xFF
    return table[:CHECKSUM_OFFSET] + bytes([checksum]) + table[CHECKSUM_OFFSET + 1 :]


def _text(text: str, size: int) -> bytes:
    if len(text) != size:
        raise ValueError(f"{text!r} is not the {size} bytes of a field of an ACPI table header")
    return text.encode("latin-1")
