"""The log of region accesses: what the guest (or its VFIO client) read and wrote, decoded.

An access in this log is one that was trapped: stores to a mapped array never come here. The
counters are exact; the accesses themselves are events, of which the newest are kept.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Final

from harness.events.limited_log import LimitedLog
from harness.events.stream import BEGINNING, Event, Writer, now
from harness.events.stream import Mark as StreamMark
from harness.spec.vfio import RegionIndex

_log = logging.getLogger(__name__)

SHOWN: Final = 8
"""Bytes of an access that are kept: a client may read or write a region as a whole."""


@dataclass(frozen=True, slots=True)
class Access(Event):
    """One trapped access."""

    LIMIT: ClassVar[int] = 24 << 20
    BYTES: ClassVar[int] = 240

    area: StrEnum
    """The part of the function that it fell into: one of those that its log counts apart."""
    region: int
    offset: int
    size: int
    value: int
    """What was read or written; of a long access its first 8 bytes."""
    write: bool
    name: Callable[[int, int], str] = field(repr=False, compare=False)
    """Gives the name of what stands at (region, offset)."""

    @property
    def register(self) -> str:
        """Name of what stands at the offset."""
        return self.name(self.region, self.offset)

    def __str__(self) -> str:
        arrow = "<-" if self.write else "->"
        return (
            f"{RegionIndex(self.region).name}+{self.offset:#x}/{self.size} {self.register} "
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


@dataclass(frozen=True, slots=True)
class Mark:
    """The counters at one moment."""

    counts: tuple[int, ...]


class AccessLog:
    """Counts accesses and writes them into the stream. Any thread may call it.

    :param areas: the parts of the function that are counted apart.
    :param name_register: gives the name of what stands at (region, offset); called when read.
    """

    def __init__(
        self, areas: type[StrEnum], name_register: Callable[[int, int], str], writer: Writer
    ):
        self._number = {area: number for number, area in enumerate(areas)}
        self._name = name_register
        self._writer = writer
        self._lock = threading.Lock()
        self._counts = [0] * (2 * len(self._number))

    def record(self, area: StrEnum, region: int, offset: int, data: bytes, *, write: bool) -> None:
        """Take note of an access and the bytes that it carried."""
        writer = self._writer
        value = int.from_bytes(data[:SHOWN], "little")
        access = Access(
            now(), writer.source, area, region, offset, len(data), value, write, self._name
        )
        with self._lock:
            self._counts[2 * self._number[area] + write] += 1
        writer.stream.write(access)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("%s", access)

    def accesses(
        self, area: StrEnum | None = None, *, since: StreamMark = BEGINNING
    ) -> list[Access]:
        """Return the accesses that are kept, oldest first, of one area or of all.

        :param since: a mark of the stream: then all that came later, or an error.
        :raises HarnessError: some of those are not kept.
        """
        writer = self._writer
        found = writer.stream.of(Access, since, source=writer.source)
        return [access for access in found if area is None or access.area is area]

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
