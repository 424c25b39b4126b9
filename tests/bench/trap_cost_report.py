"""The costs of row E6 as a page with a plot.

    make cost [ARGS="--rounds N"]       (python -m tests.bench.trap_cost_report)

measures (tests/bench/trap_cost.py) and writes docs/trap-cost.md and docs/trap-cost.svg. The machine
should do nothing else: five guests of 12 CPUs each have to boot, and the figures are times.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.errors import HarnessError, MissingRequirement
from harness.host.progress import Progress
from harness.host.signals import signals_as_interrupt
from harness.host.workspace import directory_lock
from harness.testbed.supplies import DEFAULT_KERNEL, make_provisioner
from tests.bench.__main__ import positive
from tests.bench.bench import Bench
from tests.bench.metrics import short
from tests.bench.trap_cost import CPUS, MOVED, PATHS, ROUNDS, STEPS, Cost, costs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE: Final = Path("docs/trap-cost.md")
PLOT: Final = Path("docs/trap-cost.svg")

INTRODUCTION: Final = """\
# What each path of a message costs

Made by `make cost`, all of it in one run; nothing here is written by hand. A guest with {cpus} CPUs
under software emulation takes interrupts through their whole life, over each path, so many at a
time; of a larger number {moved} are moved and raised.
Linux {kernel}, QEMU {qemu}, {rounds} rounds through all paths in turn.

*IMS mapped* and *hypercall* have the array mapped into the guest. MSI has no more than 32 messages.
The MSI-X table has 2048 entries however many are used: Linux masks them all as it enables MSI-X.

![trapped accesses and time for each interrupt](trap-cost.svg)
"""
TRAPS: Final = """
## Trapped accesses

Accesses of the guest to the store that end in QEMU or in the device's model, and to the registers
of the call; for all the interrupts of the row together.
"""
CALLS: Final = """
## What the host is asked

`DEVICE_SET_IRQS` messages and vIRTE calls, for all the interrupts of the row together.
"""
TIMES: Final = """
## Microseconds for one interrupt

Of the guest's module, by the guest's clock; *interrupt* is from the raise to the guest's answer.
The median of the rounds, and behind it how far the rounds lie apart (range over median): a
difference that is smaller than that is none.
"""


def page(found: Sequence[Cost], *, kernel: str, qemu: str) -> str:
    """Return the page."""
    rounds = len(found[0].seconds)
    return "".join(
        [
            INTRODUCTION.format(cpus=CPUS, moved=MOVED, kernel=kernel, qemu=qemu, rounds=rounds),
            TRAPS + _table(found, lambda cost: str(cost.traps)),
            CALLS + _table(found, lambda cost: str(cost.calls)),
            TIMES + _table(found, lambda cost: f"{short(cost.each_us)} ±{cost.noise:.0%}"),
        ]
    )


def _table(found: Iterable[Cost], cell: Callable[[Cost], str]) -> str:
    lines = [f"| path | interrupts | {' | '.join(STEPS)} |", "|---|--:|" + "--:|" * len(STEPS)]
    cells = {(cost.path, cost.count, cost.step): cell(cost) for cost in found}
    for path, count in dict.fromkeys((cost.path, cost.count) for cost in found):
        values = (cells[path, count, step] for step in STEPS)
        lines.append(f"| {path} | {count} | {' | '.join(values)} |")
    return "\n" + "\n".join(lines) + "\n"


def empty_figure() -> Figure:
    """Return what is drawn on. Asked for before anything is measured: it may not be there.

    :raises MissingRequirement: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingRequirement(str(error), hint="pip install '.[plot]'") from error
    matplotlib.rcParams["svg.hashsalt"] = "imsh"  # the same numbers draw the same file
    return Figure(figsize=(10, 4.6), layout="constrained")


def plot(found: Sequence[Cost], figure: Figure, target: Path) -> None:
    """Draw trapped accesses and time for each interrupt over the number of interrupts, as SVG."""
    traps, times = figure.subplots(1, 2)
    ticks = sorted({cost.count for cost in found})
    for path in PATHS:
        lives: dict[int, list[Cost]] = {}
        for cost in found:
            if cost.path == path.name:
                lives.setdefault(cost.count, []).append(cost)
        counts = sorted(lives)
        traps.plot(counts, [_traps_each(lives[count]) for count in counts], "o-", label=path.name)
        each = [
            [_life_us(lives[count], number) for number in _rounds(lives[count])] for count in counts
        ]
        middle = [statistics.median(samples) for samples in each]
        (line,) = times.plot(counts, middle, "o-", label=path.name)
        low, high = [min(samples) for samples in each], [max(samples) for samples in each]
        times.fill_between(counts, low, high, color=line.get_color(), alpha=0.15)
    traps.set_title("trapped accesses for each interrupt")
    traps.set_yscale("symlog", linthresh=0.1)
    times.set_title("microseconds for each interrupt (band: range)")
    times.set_yscale("log")
    for axes in (traps, times):
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(count) for count in ticks])
        axes.set_xlabel("interrupts at a time, through their whole life")
        axes.grid(alpha=0.3)
    figure.legend(*traps.get_legend_handles_labels(), loc="outside lower center", ncols=len(PATHS))
    figure.savefig(target, metadata={"Date": None})


def _traps_each(life: Iterable[Cost]) -> float:
    return sum(cost.traps / cost.done for cost in life)


def _rounds(life: Sequence[Cost]) -> range:
    return range(len(life[0].seconds))


def _life_us(life: Iterable[Cost], number: int) -> float:
    return sum(cost.seconds[number] / cost.done for cost in life) * 1e6


def main() -> int:
    """Measure, and write the page and its plot."""
    parser = argparse.ArgumentParser(prog="make cost", description=main.__doc__)
    parser.add_argument(
        "--rounds",
        type=positive,
        default=ROUNDS,
        metavar="N",
        help="timed rounds through all paths (default: %(default)s)",
    )
    rounds = parser.parse_args().rounds
    directory = Path("build/trap-cost.machines")
    try:
        with signals_as_interrupt(), directory_lock(directory):
            figure = empty_figure()
            bench = Bench(
                make_provisioner(), DEFAULT_KERNEL, directory, Progress(sys.stderr), rounds=rounds
            )
            found = costs(bench)
            kernel, qemu = bench.guest.kernel.release, f"{bench.qemu.version}"
    except HarnessError as error:
        sys.stderr.write(f"trap cost: {error.verdict}: {error}\n")
        return error.verdict.exit_status
    plot(found, figure, PLOT)
    PAGE.write_text(page(found, kernel=kernel, qemu=qemu))
    sys.stdout.write(f"written: {PAGE}, {PLOT}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
