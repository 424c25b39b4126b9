"""Device registers, read through QEMU's monitor as a CPU would read them."""

from __future__ import annotations

import re

from harness.errors import HarnessError
from harness.qemu.qmp import QmpSession


class Registers:
    """The registers of one device, at guest physical address ``base``."""

    def __init__(self, qmp: QmpSession, base: int):
        self._qmp = qmp
        self._base = base

    def read32(self, offset: int) -> int:
        """Return the 32-bit register at ``offset``."""
        return self._read("w", offset)

    def read64(self, offset: int) -> int:
        """Return the 64-bit register at ``offset``."""
        return self._read("g", offset)

    def _read(self, size: str, offset: int) -> int:
        answer = self._qmp.human(f"xp /1{size}x {self._base + offset:#x}")
        match = re.fullmatch(r"\s*[0-9a-f]+: (0x[0-9a-f]+)\s*", answer)
        if not match:
            raise HarnessError(f"cannot read the register at {self._base + offset:#x}: {answer}")
        return int(match[1], 16)
