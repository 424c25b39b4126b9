# Ref: QEMU system/trace-events (memory_region_ops_read, memory_region_ops_write,
#      memory_region_ram_device_read, memory_region_ram_device_write); util/log.c (timestamps);
#      hw/i386/trace-events (vtd_reg_write, vtd_reset_exit, vtd_inv_desc_iec, vtd_inv_desc_wait_sw,
#      vtd_inv_desc_wait_irq, vtd_dmar_fault); hw/vfio/trace-events (vfio_msi_*, vfio_msix_*);
#      hw/virtio/trace-events, hw/nvme/trace-events, hw/pci/trace-events, hw/core/trace-events
#      (EMULATED_EVENTS)
"""What QEMU logs of itself: its trace events.

The guest's accesses to an MSI-X table are trapped by QEMU and never reach the device's server.
QEMU's own trace events see them: they are switched on while something is measured, and their log
is read back. What happens to the VT-d unit is logged all the time. QEMU flushes each line as it is
written.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, Final

from harness.errors import HarnessError
from harness.events.clock import ClockTie, wall_clock
from harness.events.stream import Event, Mark, Stream, now
from harness.qemu.qmp import QmpSession

ACCESS_EVENTS: Final = ("memory_region_ops_read", "memory_region_ops_write")
"""What QEMU logs of each access that it serves itself."""
MAPPED_EVENTS: Final = ("memory_region_ram_device_read", "memory_region_ram_device_write")
"""The same for a region that is mapped, when an access does not go to its memory directly."""
UNIT_EVENTS: Final = (
    "vtd_reg_write",
    "vtd_reset_exit",
    "vtd_inv_desc_iec",
    "vtd_inv_desc_wait_sw",
    "vtd_inv_desc_wait_irq",
    "vtd_dmar_fault",
)
"""What the guest writes to the VT-d unit's registers, what it queues about the interrupt entry
cache, the unit's reset, and the DMA that it blocks."""
MESSAGE_EVENTS: Final = (
    "vfio_msi_interrupt",
    "vfio_msix_pba_enable",
    "vfio_msix_vector_do_use",
    "vfio_msi_disable",
    "vfio_msix_disable",
    "vfio_pci_write_config",
    "memory_region_ops_write",
)
"""What becomes of the MSI and MSI-X interrupts of a function that is served over vfio-user, and
what decides on that: its config space, and its MSI-X table among all that the guest writes to."""
EMULATED_EVENTS: Final = (
    "memory_region_ops_write",
    "msix_write_config",
    "pci_cfg_write",
    "pci_nvme_create_cq",
    "pci_nvme_del_cq",
    "pci_nvme_irq_msix",
    "pci_nvme_mmio_start_success",
    "pci_nvme_mmio_stopped",
    "qmp_enter_set_link",
    "qmp_exit_set_link",
    "resettable_phase_hold_exec",
    "virtio_notify",
    "virtio_queue_notify",
    "virtio_set_status",
    "virtqueue_flush",
    "virtqueue_pop",
)
"""The interrupts of virtio devices and NVMe controllers that QEMU emulates itself: those of a
queue, that of a changed configuration (by what changes it), and all that decides whether and where
they are sent."""

MSIX_TABLE: Final = "msix-table"
"""QEMU's name of the region in which it emulates a function's MSI-X table (hw/pci/msix.c)."""
MAPPED: Final = "(mapped)"
"""Our name of the regions of :data:`MAPPED_EVENTS`, of which QEMU logs none."""

_LINE: Final = re.compile(
    r"(?:(?P<stamp>\d{4}-\S+Z) |\d+@(?P<seconds>\d+)\.(?P<micros>\d{6}):)?"
    r"(?P<name>[a-z]\w*) (?P<rest>.*)"
)
"""With the time in front: as of QEMU 11 (ISO 8601), or as before (thread and seconds)."""
_ACCESS: Final = re.compile(
    r"cpu (?P<cpu>-?\d+) mr \S+ addr (?P<address>0x[0-9a-f]+) value (?P<value>0x[0-9a-f]+) "
    r"size (?P<size>\d+)(?: name '(?P<region>.*)')?$"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class EmulatedAccess(Event):
    """One access to a region that QEMU serves itself; its time is good to a microsecond."""

    LIMIT: ClassVar[int] = 32 << 20

    write: bool
    cpu: int
    """The virtual CPU, -1 when it was none: QEMU's own, its monitor's for example."""
    address: int
    """Guest physical; of a mapped region, from its beginning."""
    value: int
    size: int
    region: str
    """The region's name, e.g. "msix-table"."""

    def __str__(self) -> str:
        arrow = "<-" if self.write else "->"
        who = f"CPU {self.cpu}" if self.cpu >= 0 else "no CPU"
        return f"{self.region} {self.address:#x}/{self.size} {arrow} {self.value:#x} by {who}"


@dataclass(frozen=True, slots=True)
class TraceLine(Event):
    """Any other trace event."""

    name: str
    text: str

    def held(self) -> int:
        """Return the bytes that this takes."""
        return self.BYTES + len(self.name) + len(self.text)

    def __str__(self) -> str:
        return f"{self.name} {self.text}"


def parse(text: str, clock: ClockTie) -> Iterator[EmulatedAccess | TraceLine]:
    """Yield the events in a piece of QEMU's log, in order; what is none is skipped.

    :param clock: the wall clock, which QEMU puts in front of each.
    """
    for match in map(_LINE.fullmatch, text.splitlines()):
        if match:
            yield _event(_time(match, clock), match["name"], match["rest"])


def _time(line: re.Match[str], clock: ClockTie) -> int:
    if line["stamp"]:
        micros = (datetime.fromisoformat(line["stamp"]) - _EPOCH) // timedelta(microseconds=1)
    elif line["seconds"]:
        micros = int(line["seconds"] + line["micros"])
    else:
        return now()
    return clock.ours(micros * 1000)


def _event(when: int, name: str, rest: str) -> EmulatedAccess | TraceLine:
    is_access = name in ACCESS_EVENTS or name in MAPPED_EVENTS
    if not is_access or not (match := _ACCESS.match(rest)):
        return TraceLine(when, "qemu", name, rest)
    return EmulatedAccess(
        when=when,
        source="qemu",
        write=name.endswith("_write"),
        cpu=int(match["cpu"]),
        address=int(match["address"], 16),
        value=int(match["value"], 16),
        size=int(match["size"]),
        region=match["region"] or MAPPED,
    )


class TraceLog:
    """QEMU's log, written into the stream whenever somebody looks at that.

    :param path: the file given to QEMU as its log (``-D``).
    """

    def __init__(self, qmp: QmpSession, path: Path, events: Stream):
        self._qmp = qmp
        self._path = path
        self._events = events
        self._lock = threading.Lock()
        self._new = LogTail(path)
        self._holders = 0
        self._kept: set[str] = set()
        """Events that are logged from some time on."""
        events.ask_late_writer(self._write_new, EmulatedAccess, TraceLine)

    def _write_new(self) -> None:
        with self._lock:
            if text := self._new.read():
                for event in parse(text, wall_clock()):
                    self._events.write(event)

    @contextlib.contextmanager
    def accesses(self) -> Iterator[None]:
        """Have the stream get each :class:`EmulatedAccess` while this is held."""
        self._hold(1)
        try:
            yield
        finally:
            # The monitor answers in the main loop: what happened before has been logged.
            self._hold(-1)

    def _hold(self, more: int) -> None:
        with self._lock:
            self._holders += more
            if self._holders in (0, more):  # the last one out, the first one in
                events = {*ACCESS_EVENTS, *MAPPED_EVENTS}.difference(self._kept)
                _switch(self._qmp, events, on=more > 0)

    def followed_unit(self) -> LogTail:
        """Return what reads :data:`UNIT_EVENTS` from now on, with no delay.

        :raises HarnessError: QEMU does not log them.
        """
        return self._followed("vtd_*", UNIT_EVENTS)

    def followed_messages(self) -> LogTail:
        """Return what reads :data:`MESSAGE_EVENTS`, which are logged from now on, with no delay.

        :raises MonitorCommandError: QEMU has no such trace event.
        """
        return self._kept_from_now(MESSAGE_EVENTS)

    def followed_emulated(self) -> LogTail:
        """Return what reads :data:`EMULATED_EVENTS`, which are logged from now on, with no delay.

        :raises MonitorCommandError: QEMU has no such trace event.
        """
        return self._kept_from_now(EMULATED_EVENTS)

    def _kept_from_now(self, events: Iterable[str]) -> LogTail:
        tail = LogTail(self._path)
        with self._lock:
            _switch(self._qmp, set(events) - self._kept, on=True)
            self._kept.update(events)
        return tail

    def _followed(self, pattern: str, events: Sequence[str]) -> LogTail:
        tail = LogTail(self._path)
        states = self._qmp.execute("trace-event-get-state", {"name": pattern})
        logged = {state["name"] for state in states if state["state"] == "enabled"}
        if missing := ", ".join(sorted(set(events) - logged)):
            raise HarnessError(f"QEMU does not log {missing}: it has no such trace event")
        return tail


class TrappedAccesses:
    """The guest's accesses of one measurement; good when it has ended."""

    def __init__(self, events: Stream, since: Mark):
        self._events = events
        self._since = since
        self._ended_at: int | None = None

    def end(self) -> None:
        """Take no more."""
        self._ended_at = now()

    @property
    def accesses(self) -> list[EmulatedAccess]:
        """All of them, in order. The monitor's are none of the guest's."""
        return [
            access
            for access in self._events.of(EmulatedAccess, self._since)
            if access.cpu >= 0 and (self._ended_at is None or access.when <= self._ended_at)
        ]

    def of(self, region: str, *, within: range | None = None) -> list[EmulatedAccess]:
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


class LogTail:
    """What QEMU adds to a file from now on. Reading it needs no monitor.

    :param log: that of its trace events (``-D``), or that of its errors.
    """

    def __init__(self, log: Path):
        self._log = log
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


def _switch(qmp: QmpSession, events: Iterable[str], *, on: bool) -> None:
    for event in events:
        qmp.execute("trace-event-set-state", {"name": event, "enable": on})
