"""Show the capability table: each row, where it stands, and what proved it in the last test run.

A row is "proved" when tests that name it passed and none failed, "failing" when one did not pass,
"untested" when none ran. `make test` writes the record that this reads.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from harness.errors import Verdict
from harness.report.capabilities import Status, judge_capabilities
from harness.report.outcome import RESULTS_DIRECTORY, read_outcomes

HELP = "show the capability table and what proved each row"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--json", action="store_true", help="print a JSON list, for scripts")
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS_DIRECTORY,
        metavar="DIR",
        help="where the test run kept its record (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> Verdict:
    """Print the table."""
    rows = judge_capabilities(read_outcomes(args.results))
    if args.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
        return Verdict.PASS
    for row in rows:
        print(f"{row.id:<4}{row.status:<10}{row.title}")
        if row.tests:
            kernels = f"   on {', '.join(row.kernels)}" if row.kernels else ""
            print(f"{'':14}{len(row.tests)} tests{kernels}")
        for test in row.tests:
            print(f"{'':16}{test}")
    counts = [f"{sum(row.status == status for row in rows)} {status}" for status in Status]
    print(", ".join(counts))
    return Verdict.PASS
