# Ref: Linux kernel v7.2 kernel/panic.c, arch/x86/kernel/dumpstack.c, arch/x86/mm/fault.c,
#      kernel/watchdog.c, kernel/rcu/tree_stall.h, kernel/hung_task.c, kernel/irq/spurious.c,
#      arch/x86/kernel/irq.c, drivers/iommu/intel/dmar.c (dmar_fault_do_one),
#      kernel/locking/lockdep.c, mm/kmemleak.c
"""What a kernel's log says went wrong. Pure: text in, complaints out."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from harness.spec.vtd import REASONS_WITH_INDEX

MAX_REPORT_LINES: Final = 80
"""A report that has not come to its end by then is taken for a single line."""

MAX_TEXT_LINES: Final = 5
"""How far above the line that names it a report is looked for to begin ("cut here")."""


class Kind(enum.StrEnum):
    """What happened."""

    PANIC = "panic"
    OOPS = "oops"
    """The kernel faulted; the thread in it is gone."""
    BUG = "BUG"
    """The kernel found itself in a state that cannot be."""
    HARD_LOCKUP = "hard lockup"
    SOFT_LOCKUP = "soft lockup"
    RCU_STALL = "RCU stall"
    HUNG_TASK = "hung task"
    WARNING = "warning"
    """WARN_ON and its kin, and the checkers that report alike (lockdep)."""
    SANITIZER = "sanitizer report"
    """KASAN, KCSAN, KFENCE, UBSAN."""
    LEAK = "memory leak"
    """What kmemleak suspects; its file has the details."""
    UNHANDLED_INTERRUPT = "unhandled interrupt"
    """An interrupt line that nobody cared for, or a vector without a handler."""
    DMAR_FAULT = "DMAR fault"
    """The IOMMU blocked a request; :attr:`Complaint.fault` has it decoded."""


FATAL: Final = frozenset(
    {
        Kind.PANIC,
        Kind.OOPS,
        Kind.BUG,
        Kind.HARD_LOCKUP,
        Kind.SOFT_LOCKUP,
    }
    | {Kind.RCU_STALL, Kind.HUNG_TASK}
)
"""After these nothing that the guest says is worth having."""

# The first that matches counts. All are searched behind the time stamp.
_PATTERNS: Final = [
    (kind, re.compile(pattern))
    for kind, pattern in [
        (Kind.PANIC, r"^Kernel panic - not syncing"),
        (Kind.HARD_LOCKUP, r"\bhard LOCKUP on cpu|\bWatchdog detected hard LOCKUP"),
        (Kind.SOFT_LOCKUP, r"\bBUG: soft lockup"),
        (Kind.RCU_STALL, r"\brcu\w*(: INFO:)? .*\bdetected (expedited )?stall"),
        (Kind.HUNG_TASK, r"^INFO: task .* blocked for more than"),
        (Kind.SANITIZER, r"^(BUG: (KASAN|KCSAN|KFENCE|KMSAN)|UBSAN): "),
        (
            Kind.OOPS,
            r"^(Oops\b.*: |general protection fault|double fault|invalid opcode: 0000)",
        ),
        (Kind.OOPS, r"^BUG: (unable to handle|kernel NULL pointer|TASK stack guard)"),
        (Kind.BUG, r"^kernel BUG at |^(\[.*\] )?BUG: "),
        # The two of lockdep that begin otherwise.
        (Kind.WARNING, r"^(WARNING: |INFO: trying to register non-static key|\[ BUG: )"),
        (Kind.LEAK, r"^kmemleak: \d+ new suspected memory leaks"),
        (Kind.UNHANDLED_INTERRUPT, r"\birq \d+: nobody cared|No irq handler for vector"),
        (Kind.DMAR_FAULT, r"^DMAR: \[.*\[fault reason "),
    ]
]

_STAMP: Final = re.compile(r"^(?:<\d+>)?(?:\[ *\d+\.\d+\])?(?:\[ *[TC]\d+\])? ?")
"""Level, time (not without CONFIG_PRINTK_TIME) and caller: each may be missing."""
_CUT: Final = re.compile(r"-+\[ cut here \]-+")
_END: Final = re.compile(r"---\[ end |</TASK>")
_FAULT: Final = re.compile(
    r"DMAR: \[(?P<request>[^\]]+)\] Request device \[(?P<device>[^\]]+)\] "
    r"fault (?P<what>index|addr) (?P<where>[0-9a-fx]+) "
    r".*\[fault reason (?P<reason>[0-9a-fx]+)\] ?(?P<text>.*)"
)


@dataclass(frozen=True, slots=True)
class DmarFault:
    """A request that the IOMMU blocked, as the guest's driver logged it."""

    request: str
    """What the driver calls it: INTR-REMAP, DMA Read NO_PASID, DMA Write PASID 0x1, ..."""
    device: str
    """Who sent it, bus:device.function: the source id that the IOMMU saw."""
    index: int | None
    """For an interrupt, the index of the table entry that it named."""
    address: int | None
    """For DMA, the address."""
    reason: int
    """The fault reason of the VT-d specification, e.g. 0x26: wrong source id."""
    text: str

    @property
    def is_interrupt(self) -> bool:
        """Whether an interrupt was blocked."""
        return self.index is not None

    @property
    def interrupt_index(self) -> int | None:
        """Index of the IRTE that an interrupt named; None where the reason leaves it undefined."""
        return self.index if self.reason in REASONS_WITH_INDEX else None


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that went wrong, with the lines that say so."""

    kind: Kind
    line_number: int
    """Of its first line, counted from 1."""
    lines: tuple[str, ...]
    fault: DmarFault | None = None

    @property
    def title(self) -> str:
        """The line that tells, without its time stamp."""
        return next(
            (text for line in self.lines if _classify(text := _bare(line))), _bare(self.lines[0])
        )

    def __str__(self) -> str:
        return f"{self.kind} (line {self.line_number}): {self.title}"


def complaints(text: str) -> list[Complaint]:
    """Return everything in a console's or the kernel's log that went wrong, in order."""
    lines = text.splitlines()
    found: list[Complaint] = []
    inside_until = 0  # lines before belong to the last report
    for number, line in enumerate(lines):
        kind = _classify(_bare(line))
        if kind is None:
            continue
        if kind is Kind.DMAR_FAULT:
            found.append(Complaint(kind, number + 1, (line,), _decode(line)))
        elif number >= inside_until or kind is Kind.PANIC:
            first, end = _report(lines, number)
            found.append(Complaint(kind, first + 1, tuple(lines[first:end])))
            inside_until = end
    return found


def alarm(line: str) -> str | None:
    """Return what a console line says the machine is lost to, or None."""
    kind = _classify(_bare(line))
    return kind.value if kind in FATAL else None


def _bare(line: str) -> str:
    return _STAMP.sub("", line.rstrip())


def _classify(text: str) -> Kind | None:
    return next((kind for kind, pattern in _PATTERNS if pattern.search(text)), None)


def _report(lines: Sequence[str], number: int) -> tuple[int, int]:
    """Return the first line of the report around a line, and the one behind its last."""
    # A WARN with a text of its own has it between the two.
    before = range(max(0, number - MAX_TEXT_LINES), number)
    first = next((n for n in reversed(before) if _CUT.search(lines[n])), number)
    for index in range(number + 1, min(number + MAX_REPORT_LINES, len(lines))):
        if _END.search(lines[index]):
            # An oops goes on behind its trace, up to a marker of its own.
            rest = lines[index + 1 : index + 1 + MAX_REPORT_LINES // 2]
            more = (n for n, line in enumerate(rest) if "---[ end " in line)
            fresh = (n for n, line in enumerate(rest) if _CUT.search(line))
            last = next(more, None) if "</TASK>" in lines[index] else None
            if last is not None and last < next(fresh, len(rest)):
                index += 1 + last
            return first, index + 1
    return first, number + 1


def _decode(line: str) -> DmarFault | None:
    match = _FAULT.search(line)
    if not match:
        return None
    where = int(match["where"], 16)
    interrupt = match["what"] == "index"
    return DmarFault(
        request=match["request"],
        device=match["device"],
        index=where if interrupt else None,
        address=None if interrupt else where,
        reason=int(match["reason"], 16),
        text=match["text"].strip(),
    )
