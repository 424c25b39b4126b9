"""A developer's round: one line of a tree is changed, and the verdict on its kernel is in."""

from __future__ import annotations

import difflib
import re
import sys
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from harness.errors import HarnessError, MissingRequirement
from harness.host.deadline import Deadline
from harness.host.process import run
from tests.bench.bench import Bench
from tests.bench.metrics import Summary

ROUNDS: Final = 3
FILE: Final = "drivers/iommu/intel/irq_remapping.c"
FIRST_SECONDS: Final = 3 * 3600.0
"""Bound of the first round, which may build a whole kernel."""
SECONDS: Final = 1800.0
_BUILT: Final = re.compile(r"(?m)^kernel \S+: done in ([\d.]+) s$")


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of one `imsh run --tree`."""

    verdict: float
    """From the command to its end."""
    build: float
    """What of that the kernel's build took."""


def tree_rounds(bench: Bench) -> list[Round]:
    """Return rounds after a change of one line each; the first build is not counted.

    :raises MissingRequirement: no tree was named.
    """
    if bench.tree is None:
        raise MissingRequirement("no kernel tree was named", hint="name one with --tree PATH")
    directory = bench.workspace("tree").directory
    _verdict(bench.tree, _change(bench.tree, directory), directory, FIRST_SECONDS)
    return [
        _verdict(bench.tree, _change(bench.tree, directory), directory, SECONDS)
        for _ in bench.counted("a change of one line", ROUNDS)
    ]


def tree_rebuild_verdict_s(bench: Bench) -> Summary:
    """Return the seconds from a change of one line to the verdict."""
    rounds = bench.shared(tree_rounds)
    summary = Summary.of(each.verdict for each in rounds)
    return replace(summary, extra={"build": Summary.of(each.build for each in rounds).value})


def tree_verdict_over_build_s(bench: Bench) -> Summary:
    """Return what of that is not the kernel's build: module, image, machine, the three stores."""
    return Summary.of(each.verdict - each.build for each in bench.shared(tree_rounds))


def _change(tree: Path, directory: Path) -> Path:
    """Return a patch that adds a line. It is new every time, and code: ccache knows no comments."""
    before = (tree / FILE).read_text().splitlines(keepends=True)
    after = [*before, f'static const char imsh_bench[] __used = "{uuid.uuid4()}";\n']
    patch = directory / "one-line.patch"
    names = (f"a/{FILE}", f"b/{FILE}")
    patch.write_text("".join(difflib.unified_diff(before, after, *names)))
    return patch


def _verdict(tree: Path, patch: Path, directory: Path, seconds: float) -> Round:
    words = ["run", "--tree", str(tree), "--series", str(patch), "--results", str(directory)]
    log = directory / "run.log"
    log.write_bytes(b"")
    start = time.monotonic()
    run(
        [sys.executable, "-m", "harness", *words],
        deadline=Deadline(seconds, "imsh run --tree"),
        log=log,
    )
    spent = time.monotonic() - start
    if not (built := _BUILT.search(log.read_text())):
        raise HarnessError("the changed kernel was not built", evidence=log.read_text()[-2000:])
    return Round(spent, float(built[1]))
