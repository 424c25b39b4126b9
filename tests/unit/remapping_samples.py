"""A VT-d unit and its guest memory, as under a v6.12 guest on QEMU 11.1.3 in x2APIC mode."""

from __future__ import annotations

from harness.remapping.unit import UnitState, read_unit
from harness.spec.vtd import ENTRY_SIZE, Register

TABLE = 0x1300000
REGISTERS = {
    Register.VER: 0x10,
    Register.CAP: 0x222F0006,
    Register.CAP + 4: 0x80D2008C,
    Register.ECAP: 0x00F00F5A,
    Register.GSTS: 0x07000000,
    Register.IRTA: TABLE | 0x80F,
}
# Index to high and low half. 0 to 11: pins of the IO-APIC; 16: root port 00:03.0;
# 18 to 20: MSI-X of a function at 01:00.0; 21, 22: of one at 00:04.0.
ENTRIES = {
    0: (0x4FF00, 0x000000010021000D),
    1: (0x4FF00, 0x000000010030000D),
    3: (0x4FF00, 0x000000010022000D),
    7: (0x4FF00, 0x000000020022000D),
    8: (0x4FF00, 0x000000020020000D),
    11: (0x4FF00, 0x000000020021000D),
    16: (0x40018, 0x000000010020000D),
    18: (0x40100, 0x000000020023000D),
    19: (0x40100, 0x000000010023000D),
    20: (0x40100, 0x000000020024000D),
    21: (0x40020, 0x000000010024000D),
    22: (0x40020, 0x000000020025000D),
}


class Registers:
    """Registers of a unit, by dword; those not given are 0."""

    def __init__(self, changes: dict[int, int] | None = None):
        self.dwords = {int(offset): value for offset, value in REGISTERS.items()}
        self.dwords.update(changes or {})

    def read(self, offset: int, count: int) -> bytes:
        words = (self.dwords.get(place, 0) for place in range(offset, offset + count, 4))
        return b"".join(word.to_bytes(4, "little") for word in words)


class Memory:
    """Guest memory that has the table and nothing else."""

    def __init__(self, entries: dict[int, tuple[int, int]] | None = None, size: int = 1 << 20):
        self.raw = bytearray(size)
        for index, halves in (ENTRIES if entries is None else entries).items():
            self.put(index, halves)

    def put(self, index: int, halves: tuple[int, int] | None) -> None:
        """Write an entry of the table, None for one that is freed."""
        high, low = halves or (0, 0)
        place = slice(index * ENTRY_SIZE, (index + 1) * ENTRY_SIZE)
        self.raw[place] = (high << 64 | low).to_bytes(ENTRY_SIZE, "little")

    def read(self, address: int, count: int) -> bytes:
        start = address - TABLE
        if not 0 <= start <= start + count <= len(self.raw):
            raise OSError(f"no memory at {address:#x}")
        return bytes(self.raw[start : start + count])


def unit(changes: dict[int, int] | None = None) -> UnitState:
    return read_unit(Registers(changes))
