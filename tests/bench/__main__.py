"""Measure, print a table and write the numbers down.

Nothing here passes or fails by the clock: machines are shared and noisy. What is compared is
measured side by side, in turn, in one run, and medians are shown. The exit status is 0 unless
something broke; goals stand beside the values for the reader to judge.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from harness.errors import HarnessError, Verdict
from harness.host.progress import Progress
from harness.host.signals import Interrupted, signals_as_interrupt
from harness.host.workspace import directory_lock
from harness.testbed.supplies import DEFAULT_KERNEL, make_provisioner
from tests.bench.bench import Bench
from tests.bench.catalogue import METRICS
from tests.bench.metrics import Metric, Summary, table, write_json

JSON: Final = Path("build/bench.json")

EPILOG = """\
examples:
  python -m tests.bench                             everything, the test suite too: ten minutes
  python -m tests.bench --only vfio_user_read_us    one metric
  python -m tests.bench --only boot_to_ssh_ratio --rounds 15 --kernel debian-6.1

Numbers of different runs say little about each other; those of one run do. Consoles and
transcripts of the last run's machines are beside the file, in bench.machines/. See
docs/benchmarks.md.
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[metric.name for metric in METRICS],
        metavar="NAME",
        help=f"measure this alone; may be given again: {', '.join(m.name for m in METRICS)}",
    )
    parser.add_argument(
        "--rounds",
        type=positive,
        metavar="N",
        help="take each sample of a round N times (default: the measurement's own number)",
    )
    parser.add_argument(
        "--kernel",
        default=DEFAULT_KERNEL,
        metavar="NAME",
        help="guest kernel, see `imsh kernels` (default: %(default)s)",
    )
    parser.add_argument(
        "--tree",
        type=Path,
        metavar="PATH",
        help="kernel tree for tree_rebuild_verdict_s, which is left out without one",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=JSON,
        metavar="PATH",
        help="where the numbers go; what was there is replaced (default: %(default)s)",
    )
    return parser


def positive(text: str) -> int:
    """Return the number above zero that a word of the command line is."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = make_parser().parse_args(argv)
    wanted = [
        metric
        for metric in METRICS
        if (metric.name in args.only if args.only else args.tree or not metric.of_tree)
    ]
    machines = args.json.with_name(f"{args.json.stem}.machines")
    try:
        with signals_as_interrupt(), directory_lock(machines):
            _empty(machines)
            bench = Bench(
                make_provisioner(),
                kernel=args.kernel,
                directory=machines,
                progress=Progress(sys.stderr),
                rounds=args.rounds,
                tree=args.tree,
            )
            results, failures = measure(bench, wanted)
            if results:
                write_json(args.json, results)
    except HarnessError as error:
        return _complain("bench", error)
    except Interrupted as interrupt:
        sys.stderr.write(f"bench: {interrupt}; nothing was written\n")
        return 128 + interrupt.number
    if results:
        sys.stdout.write(f"\n{table(results)}\nwritten to {args.json}\n")
    statuses = [_complain(name, error) for name, error in failures.items()]
    return max(statuses, default=Verdict.PASS.exit_status)


def measure(
    bench: Bench, wanted: Sequence[Metric]
) -> tuple[dict[Metric, Summary], dict[str, HarnessError]]:
    """Return what was measured, and what broke; one metric's failure does not end the others."""
    results: dict[Metric, Summary] = {}
    failures: dict[str, HarnessError] = {}
    for metric in wanted:
        try:
            results[metric] = metric.measure(bench)
        except HarnessError as error:
            failures[metric.name] = error
    return results, failures


def _empty(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)


def _complain(what: str, error: HarnessError) -> int:
    sys.stderr.write(f"{what}: {error.verdict}: {error}\n")
    return error.verdict.exit_status


if __name__ == "__main__":
    sys.exit(main())
