"""List the runs of tests that are kept, the newest first.

Each has a directory with its results, a line a test, and the evidence of what failed. Old ones are
removed as new ones come, but never the newest with a guest, nor one that `imsh capabilities` needs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from pathlib import Path

from harness.errors import Verdict
from harness.report.run_store import RESULTS_DIRECTORY, kept_runs

HELP = "list the runs of tests that are kept"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--json", action="store_true", help="print a JSON list, for scripts")
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS_DIRECTORY,
        metavar="DIR",
        help="where runs are kept (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> Verdict:
    """Print the list."""
    runs = kept_runs(args.results)
    if args.json:
        known = [
            dataclasses.asdict(run.head)
            | {
                "state": run.state,
                "guest": run.has_guest,
                "verdicts": run.verdicts,
                "bytes": run.size(),
                "path": str(run.directory.resolve()),
                "torn": run.results[1],
            }
            for run in runs
        ]
        print(json.dumps(known, indent=2))
        return Verdict.PASS
    for run in runs:
        said = ", ".join(f"{count} {verdict}" for verdict, count in run.verdicts.items())
        guest = f"matrix {run.head.matrix}" if run.has_guest else "no guest"
        print(f"{run.head.run}  {run.state}, {guest}, {run.size() / 1e6:.1f} MB: {said}")
        print(f"{'':4}{shlex.join(run.head.argv)}")
        if torn := run.results[1]:
            print(f"{'':4}{torn}")
    if not runs:
        print(f"no run is kept in {args.results}")
    return Verdict.PASS
