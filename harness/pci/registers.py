"""A bank of 32-bit registers: offset to a named register with its write mask and side effects."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

REGISTER_SIZE = 4


@dataclass(frozen=True, slots=True)
class RegisterCell:
    """One register. What is written reaches ``write`` cut down to ``writable``."""

    offset: int
    name: str
    read: Callable[[], int]
    write: Callable[[int], bool] | None = None
    """Called with the masked value; False refuses it. None: the register is read-only."""
    writable: int = 0xFFFFFFFF


class RegisterBank:
    """Registers by offset. Each is accessed as one whole aligned dword; nothing else is allowed.

    :raises ValueError: two cells overlap, or one is misaligned.
    """

    def __init__(self, cells: Iterable[RegisterCell]):
        self._cells: dict[int, RegisterCell] = {}
        for cell in cells:
            if cell.offset % REGISTER_SIZE or cell.offset in self._cells:
                raise ValueError(f"{cell.name} cannot stand at {cell.offset:#x}")
            self._cells[cell.offset] = cell

    def read(self, offset: int, count: int) -> bytes | None:
        """Return the register's bytes, None when the access is not allowed."""
        cell = self._cells.get(offset)
        if cell is None or count != REGISTER_SIZE:
            return None
        return cell.read().to_bytes(REGISTER_SIZE, "little")

    def write(self, offset: int, data: bytes) -> bool:
        """Write a register; False when the access is not allowed."""
        cell = self._cells.get(offset)
        if cell is None or cell.write is None or len(data) != REGISTER_SIZE:
            return False
        return cell.write(int.from_bytes(data, "little") & cell.writable)

    def name(self, offset: int) -> str | None:
        """Return the name of the register that covers an offset."""
        cell = self._cells.get(offset & -REGISTER_SIZE)
        return cell.name if cell else None
