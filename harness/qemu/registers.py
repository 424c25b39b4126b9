"""Device registers, read through QEMU's monitor as a CPU would read them."""

from __future__ import annotations

import re
from typing import Final

from harness.errors import HarnessError
from harness.qemu.qmp import QmpSession

_WORD: Final = 4


class Registers:
    """The registers of one device, at guest physical address ``base``.

    What is read at once is from one moment: the monitor lets no CPU in between.
    """

    def __init__(self, qmp: QmpSession, base: int):
        self._qmp = qmp
        self._base = base

    def read(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes, read in 32-bit words; both arguments are multiples of four.

        :raises HarnessError: the monitor does not read there.
        """
        place = self._base + offset
        answer = self._qmp.human(f"xp /{count // _WORD}wx {place:#x}")
        words = [int(word, 16) for word in re.findall(r"\b0x[0-9a-f]{8}\b", answer)]
        if len(words) * _WORD != count:
            raise HarnessError(f"cannot read {count} bytes of registers at {place:#x}: {answer}")
        return b"".join(word.to_bytes(_WORD, "little") for word in words)
