# Ref: docs/virte.md, "Discovery"; docs/ims-policy.md, "The vendor-neutral flag"
"""The ACPI table VIRE: how IMS may be used on this platform, and which function takes the call."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from harness.spec.acpi import TableHeader
from harness.spec.pci import RequesterId

SIGNATURE: Final = "VIRE"
REVISION: Final = 1
LENGTH: Final = 48


class ImsUse(enum.IntEnum):
    """Byte 36: the vendor-neutral flag."""

    UNDEFINED = 0
    """Nothing is promised: MSI and MSI-X only."""
    DIRECT = 1
    """Pairs that the kernel composes itself work."""
    CALL = 2
    """Only pairs that the hypervisor was asked for work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vire:
    """The table."""

    ims: ImsUse
    function: RequesterId
    """The function that carries the call; without meaning where no call is needed."""
    segment: int = 0

    #                                     use reserved segment bus devfn reserved
    FORMAT: ClassVar[struct.Struct] = struct.Struct("<BxHBB6x")

    def pack(self, *, oem_revision: int = 1) -> bytes:
        """Return the whole table; ``oem_revision`` is the maker's own count of its versions."""
        header = TableHeader(signature=SIGNATURE, revision=REVISION, oem_revision=oem_revision)
        place = (self.segment, self.function.bus, self.function & 0xFF)
        return header.pack(self.FORMAT.pack(self.ims, *place))

    @classmethod
    def unpack(cls, table: bytes) -> Self:
        """Return what a table says.

        :raises ValueError: it is no sound table of this layout; says why.
        """
        header, body = TableHeader.unpack(table)
        if (header.signature, header.revision, len(table)) != (SIGNATURE, REVISION, LENGTH):
            raise ValueError(
                f"{header.signature} of revision {header.revision} and {len(table)} bytes: "
                f"not {SIGNATURE} of revision {REVISION} and {LENGTH} bytes"
            )
        if body[1] or any(body[6:]):
            raise ValueError(f"{SIGNATURE}: reserved bytes are not zero: {body.hex()}")
        use, segment, bus, devfn = cls.FORMAT.unpack(body)
        return cls(ims=ImsUse(use), function=RequesterId(bus << 8 | devfn), segment=segment)
