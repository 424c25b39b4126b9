"""The log of region accesses: what the guest (or its VFIO client) read and wrote, decoded.

An access in this log is one that was trapped: stores to a mapped array never come here. The
counters are exact; of the accesses themselves the newest are kept.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from harness.events.limited_log import LimitedLog
from harness.events.ring import Ring
from harness.spec.vfio import RegionIndex

_log = logging.getLogger(__name__)

LIMIT: Final = 24 << 20
"""Bytes of accesses that are kept: about 100,000."""
ACCESS_BYTES: Final = 240
"""What an access takes in memory, whatever its size."""
SHOWN: Final = 8
"""Bytes of an access that are kept: a client may read or write a region as a whole."""


@dataclass(frozen=True, slots=True)
class Access:
    """One trapped access."""

    when: int
    """Nanoseconds of the monotonic clock."""
    area: StrEnum
    """The part of the function that it fell into: one of those that its log counts apart."""
    region: RegionIndex
    offset: int
    size: int
    value: int
    """What was read or written; of a long access its first 8 bytes."""
    write: bool
    register: str
    """Name of what stands at the offset."""

    def __str__(self) -> str:
        arrow = "<-" if self.write else "->"
        return (
            f"{self.region.name}+{self.offset:#x}/{self.size} {self.register} "
            f"{arrow} {self.value:#x}"
        )


@dataclass(frozen=True, slots=True)
class AccessCount:
    """Trapped accesses of one area."""

    reads: int = 0
    writes: int = 0

    @property
    def total(self) -> int:
        """Reads and writes."""
        return self.reads + self.writes


# An access as it is kept: time, area, region, offset, size, first bytes, whether it is a write.
_Kept = tuple[int, StrEnum, int, int, int, bytes, bool]


@dataclass(frozen=True, slots=True)
class Mark:
    """The counters at one moment."""

    counts: tuple[int, ...]


class AccessLog:
    """Counts and keeps accesses. Written on the server's thread, read from any.

    :param areas: the parts of the function that are counted apart.
    :param name_register: gives the name of what stands at (region, offset); called when read.
    """

    def __init__(self, areas: type[StrEnum], name_register: Callable[[int, int], str]):
        self._number = {area: number for number, area in enumerate(areas)}
        self._name = name_register
        self._lock = threading.Lock()
        self._counts = [0] * (2 * len(self._number))
        self._kept: Ring[_Kept] = Ring(LIMIT)

    def record(self, area: StrEnum, region: int, offset: int, data: bytes, *, write: bool) -> None:
        """Take note of an access and the bytes that it carried."""
        size = len(data)
        if size > SHOWN:
            data = data[:SHOWN]
        entry = (time.monotonic_ns(), area, region, offset, size, data, write)
        with self._lock:
            self._counts[2 * self._number[area] + write] += 1
            self._kept.append(entry, ACCESS_BYTES)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("%s", self._decode(entry))

    def _decode(self, entry: _Kept) -> Access:
        when, area, region, offset, size, data, write = entry
        return Access(
            when=when,
            area=area,
            region=RegionIndex(region),
            offset=offset,
            size=size,
            value=int.from_bytes(data, "little"),
            write=write,
            register=self._name(region, offset),
        )

    def accesses(self, area: StrEnum | None = None) -> list[Access]:
        """Return the accesses that are kept, oldest first, of one area or of all."""
        with self._lock:
            kept = self._kept.since()
        return [self._decode(entry) for entry in kept if area is None or entry[1] is area]

    def mark(self) -> Mark:
        """Return the counters as they stand, for :meth:`counts_since`."""
        with self._lock:
            return Mark(tuple(self._counts))

    def counts_since(self, mark: Mark | None = None) -> dict[StrEnum, AccessCount]:
        """Return the accesses of every area since a mark, or since the beginning."""
        now = self.mark().counts
        then = mark.counts if mark else (0,) * len(now)
        counts = [after - before for after, before in zip(now, then, strict=True)]
        return {
            area: AccessCount(reads=counts[2 * number], writes=counts[2 * number + 1])
            for area, number in self._number.items()
        }


class RefusalLog:
    """Counts accesses that the register map does not allow; each place is logged once, at most."""

    def __init__(self) -> None:
        self._log = LimitedLog(_log)
        self.count = 0
        """Refused accesses since the last reset; 32 bits, as the register that shows it."""
        self._seen: set[tuple[int, int, int, bool]] = set()

    def refuse(self, region: int, offset: int, size: int, *, write: bool) -> None:
        """Count a refused access."""
        self.count = self.count + 1 & 0xFFFFFFFF
        place = (region, offset, size, write)
        # A guest that scans a BAR must not fill the log, nor this set.
        if place not in self._seen and len(self._seen) < 1000:
            self._seen.add(place)
            self._log.log(
                logging.WARNING,
                "refused: a %d-byte %s at %s+%#x",
                size,
                "write" if write else "read",
                RegionIndex(region).name,
                offset,
            )

    def reset(self) -> None:
        """Count from zero."""
        self.count = 0
