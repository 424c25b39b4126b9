# Ref: QEMU system/trace-events (memory_region_ops_read, memory_region_ops_write)
"""What QEMU logs of itself: its trace events.

The guest's accesses to an MSI-X table are trapped by QEMU and never reach the device's server.
QEMU's own trace events see them: they are switched on while something is measured, and their log
is read back. QEMU flushes each line as it is written.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.qemu.qmp import QmpSession

EVENTS: Final = ("memory_region_ops_read", "memory_region_ops_write")

MSIX_TABLE: Final = "msix-table"
"""QEMU's name of the region in which it emulates a function's MSI-X table (hw/pci/msix.c)."""

_LINE: Final = re.compile(
    r"memory_region_ops_(?P<what>read|write) cpu (?P<cpu>-?\d+) mr (?P<region>\S+) "
    r"addr (?P<address>0x[0-9a-f]+) value (?P<value>0x[0-9a-f]+) size (?P<size>\d+) "
    r"name '(?P<name>.*)'"
)


@dataclass(frozen=True, slots=True)
class Access:
    """One access to an emulated region. ``address`` is what QEMU logs: guest physical, absolute."""

    write: bool
    cpu: int
    """The virtual CPU, -1 when it was none."""
    address: int
    value: int
    size: int
    region: str
    """The region's name, e.g. "msix-table"."""


def parse(text: str) -> list[Access]:
    """Return the accesses in a QEMU log, in order; other lines are skipped."""
    return [
        Access(
            write=match["what"] == "write",
            cpu=int(match["cpu"]),
            address=int(match["address"], 16),
            value=int(match["value"], 16),
            size=int(match["size"]),
            region=match["name"],
        )
        for match in _LINE.finditer(text)
    ]


class TrappedAccesses:
    """The accesses of one measurement. ``accesses`` is filled when it ends."""

    def __init__(self) -> None:
        self.accesses: list[Access] = []

    def of(self, region: str, *, within: range | None = None) -> list[Access]:
        """Return the accesses to the regions of this name, in order.

        Every function's MSI-X table has the same name; ``within`` (guest physical) picks one.
        """
        return [
            access
            for access in self.accesses
            if access.region == region and (within is None or access.address in within)
        ]

    def count(self, region: str, *, within: range | None = None) -> int:
        """Return how many accesses :meth:`of` would."""
        return len(self.of(region, within=within))

    def regions(self) -> dict[str, int]:
        """Return the count of every region that was accessed."""
        counts: dict[str, int] = {}
        for access in self.accesses:
            counts[access.region] = counts.get(access.region, 0) + 1
        return counts


@contextlib.contextmanager
def trapped_accesses(qmp: QmpSession, trace_log: Path) -> Iterator[TrappedAccesses]:
    """Measure what the guest traps on in QEMU while this is held.

    :param trace_log: the file given to QEMU as its log (``-D``); it grows by what is measured.
    """
    trapped = TrappedAccesses()
    tail = TraceTail(trace_log)
    _switch(qmp, EVENTS, on=True)
    try:
        yield trapped
    finally:
        # The monitor answers in the main loop: what happened before has been logged.
        _switch(qmp, EVENTS, on=False)
        trapped.accesses = parse(tail.read())


class TraceTail:
    """What is added to QEMU's log from now on. Reading it needs no monitor.

    :param trace_log: the file given to QEMU as its log (``-D``).
    """

    def __init__(self, trace_log: Path):
        self._log = trace_log
        self._read = self._size()

    def _size(self) -> int:
        try:
            return self._log.stat().st_size
        except FileNotFoundError:  # made with the first line
            return 0

    def read(self) -> str:
        """Return the whole lines that came since the last call."""
        if self._size() == self._read:
            return ""
        with self._log.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        new = new[: new.rfind(b"\n") + 1]
        self._read += len(new)
        return new.decode(errors="replace")


def followed_trace(qmp: QmpSession, trace_log: Path, events: Sequence[str]) -> TraceTail:
    """Have QEMU log some events from now on, and return what reads them."""
    tail = TraceTail(trace_log)
    _switch(qmp, events, on=True)
    return tail


def _switch(qmp: QmpSession, events: Sequence[str], *, on: bool) -> None:
    for event in events:
        qmp.execute("trace-event-set-state", {"name": event, "enable": on})
