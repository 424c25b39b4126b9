"""Show the capability table: each row, where it stands, and what proved it.

A row is "proved" by tests that passed in a guest, on every kernel and machine of their matrix;
"partly" says what is missing; it is "failing" when a test did not pass in a guest, and "untested"
when none ran in one. Tests without a guest are listed as support. For each test on each kernel and
machine the newest kept run counts in which it ran (`imsh runs` lists them).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from harness.errors import Verdict
from harness.report.capabilities import Capability, Standing, judge_capabilities
from harness.report.run_store import RESULTS_DIRECTORY, Run, kept_runs

HELP = "show the capability table and what proved each row"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--json", action="store_true", help="print a JSON object, for scripts")
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS_DIRECTORY,
        metavar="DIR",
        help="where runs are kept (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> Verdict:
    """Print the table."""
    runs = kept_runs(args.results)
    rows = judge_capabilities(runs)
    used = {name for row in rows for name in row.runs}
    sources = [run for run in runs if run.head.run in used]
    if args.json:
        heads = [dataclasses.asdict(run.head) | {"state": run.state} for run in sources]
        table = {"runs": heads, "rows": [dataclasses.asdict(row) for row in rows]}
        print(json.dumps(table, indent=2))
        return Verdict.PASS
    for row in rows:
        _show(row)
    counts = [f"{sum(row.status == status for row in rows)} {status}" for status in Standing]
    print(", ".join(counts))
    _show_sources(sources)
    return Verdict.PASS


def _show(row: Capability) -> None:
    print(f"{row.id:<4}{row.status:<10}{row.title}")
    for part in row.missing:
        print(f"{'':14}missing: {part}")
    if row.tests:
        where = f"on {', '.join(row.cells)}" if row.cells else "without a guest, as the row says"
        print(f"{'':14}{len(row.tests)} tests   {where}")
    for test in row.tests:
        print(f"{'':16}{test}")
    for reason, cells in row.skipped.items():
        print(f"{'':14}skipped on {', '.join(cells)}: {reason}")
    if row.support:
        print(f"{'':14}support, without a guest:")
    for test in row.support:
        print(f"{'':16}{test}")


def _show_sources(sources: list[Run]) -> None:
    print("from the runs:" if sources else "from no run: none is kept")
    for run in sources:
        print(f"    {run.head.run}  {run.state}, matrix {run.head.matrix}, imsh {run.head.imsh}")
        if torn := run.results[1]:
            print(f"{'':8}{torn}")
