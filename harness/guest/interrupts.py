"""The guest's /proc/interrupts: counts by interrupt and CPU, and what changed between two readings.

Three layouts are in use (Linux kernel/irq/proc.c, show_interrupts(); arch/x86/kernel/irq.c,
arch_show_interrupts()):

- v6.1: the chip is ``IR-PCI-MSI`` and the number one of the shared PCI/MSI domain (requester id
  in bits 26:11, MSI-X index below);
- since the per-device domains of v6.2 the chip is ``IR-PCI-MSIX-0000:01:00.0`` and the number the
  device's own index;
- v7.2 has columns as wide as the longest chip, and leaves out counters the CPU cannot have.

Columns are told apart by the header's number of CPUs and by what they hold, never by their place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from harness.errors import HarnessError

# Chip, optional hwirq, then how it is triggered: "IR-IO-APIC   2-edge      timer".
_SOURCE: Final = re.compile(
    r"(?P<chip>\S+)(?:\s+(?P<hwirq>\d+))?(?:-(?P<flow>\S+))?(?:\s+(?P<actions>.*))?"
)


@dataclass(frozen=True, slots=True)
class InterruptLine:
    """One line: a Linux interrupt, or one of the architecture's own (NMI, LOC, ...)."""

    name: str
    """Linux interrupt number in decimal, or the architecture's abbreviation."""
    counts: Mapping[int, int]
    """CPU number to count; CPU -1 stands for a count of the whole machine (ERR, MIS)."""
    chip: str = ""
    """Name of the chip; "" for the architecture's own."""
    hwirq: int | None = None
    """Number in the chip's domain."""
    flow: str = ""
    """Name of the flow handler: "edge", "fasteoi", ..."""
    actions: tuple[str, ...] = ()
    """Names that the handlers were requested under."""
    description: str = ""
    """What the kernel prints about one of the architecture's own."""

    @property
    def virq(self) -> int | None:
        """Linux interrupt number, None for one of the architecture's own."""
        return int(self.name) if self.name.isdecimal() else None

    @property
    def total(self) -> int:
        """Count over all CPUs."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Interrupts:
    """One reading of /proc/interrupts: online CPUs, and interrupts with a handler or a count."""

    cpus: tuple[int, ...]
    lines: Mapping[str, InterruptLine]
    """By name, in the order of the file."""

    def __getitem__(self, interrupt: int | str) -> InterruptLine:
        """Return the line of a Linux interrupt number or of an abbreviation.

        :raises KeyError: there is none.
        """
        return self.lines[str(interrupt)]

    def by_action(self, action: str) -> list[InterruptLine]:
        """Return the lines on which a handler of that name stands."""
        return [line for line in self.lines.values() if action in line.actions]

    def since(self, earlier: Interrupts) -> dict[str, dict[int, int]]:
        """Return what was counted since an earlier reading: name to CPU to difference, no zeros.

        An interrupt that is only in one of the readings counts from or to 0 there: a line that was
        freed or given to another device shows as a negative or a large difference.
        """
        changed: dict[str, dict[int, int]] = {}
        for name in dict.fromkeys([*earlier.lines, *self.lines]):
            before = earlier.lines[name].counts if name in earlier.lines else {}
            after = self.lines[name].counts if name in self.lines else {}
            cpus = sorted({*before, *after})
            differences = {cpu: after.get(cpu, 0) - before.get(cpu, 0) for cpu in cpus}
            if differences := {cpu: count for cpu, count in differences.items() if count}:
                changed[name] = differences
        return changed


def parse_interrupts(text: str) -> Interrupts:
    """Return what a /proc/interrupts says.

    :raises HarnessError: it is not one; the evidence is the line.
    """
    lines = text.splitlines()
    header = lines[0] if lines else ""
    if not re.fullmatch(r"(\s*CPU\d+)+\s*", header):
        raise HarnessError("/proc/interrupts has no header of CPUs", evidence=header)
    cpus = tuple(int(word.removeprefix("CPU")) for word in header.split())
    parsed = [_parse_line(line, cpus) for line in lines[1:] if line.strip()]
    return Interrupts(cpus, {line.name: line for line in parsed})


def _parse_line(text: str, cpus: tuple[int, ...]) -> InterruptLine:
    name, colon, rest = text.partition(":")
    name = name.strip()
    words = rest.split(maxsplit=len(cpus))
    values = [int(word) for word in words[: len(cpus)] if word.isdecimal()]
    source = words[len(cpus)].strip() if len(words) > len(cpus) else ""
    counts = dict(zip(cpus, values, strict=False))
    if colon and len(values) == len(words) == 1 and not name.isdecimal():
        # A number alone is a counter of the whole machine.
        return InterruptLine(name, {-1: values[0]})
    if colon and len(counts) == len(cpus):
        if not name.isdecimal():
            return InterruptLine(name, counts, description=source)
        if match := _SOURCE.fullmatch(source):
            return InterruptLine(
                name,
                counts,
                chip=match["chip"],
                hwirq=int(match["hwirq"]) if match["hwirq"] else None,
                flow=match["flow"] or "",
                actions=tuple(re.split(r",\s*", match["actions"])) if match["actions"] else (),
            )
    raise HarnessError("/proc/interrupts has a line that is not understood", evidence=text)
