"""Seed faults into a live guest, one at a time, and see whether the tests notice.

Each fault of the table is put into the kernel of a running guest, into the guest module or into the
model of the device, and the tests that should see it are run until the first goes red; that one is
then run without the fault, and has to be green. What became of each fault is said at once, and at
the end the score: how many were caught by a test of a row that should.

Nothing is built for it, and the kernel is the one that every test has: its text is changed in
memory. Where a kernel has no place for a fault, that one is not applicable to it.

The status is 0 when every fault that could be seeded was caught so, and 2 when the tests have
missed one. docs/faults.md says how to add a fault.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from harness.errors import ConfigError, Verdict
from harness.faults.campaign import FAULT_RUNS, TESTS, Campaign
from harness.faults.fault import Fault
from harness.faults.score import Fate, Finding, Score
from harness.faults.table import FAULTS
from harness.host.progress import Progress
from harness.testbed.selection import make_selection

HELP = "seed faults into a live guest, and score how many the tests catch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "--list", action="store_true", help="say which faults there are, and seed none"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only faults whose name matches, or that a row should see: 'irte-*', G1 (repeatable)",
    )
    parser.add_argument(
        "--kernel",
        action="append",
        default=[],
        metavar="NAME",
        help="only into this kernel (repeatable; default: all of the default matrix)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="take over what an earlier campaign of the same commit has kept in DIR",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    parser.add_argument(
        "--results",
        type=Path,
        default=FAULT_RUNS,
        metavar="DIR",
        help="where the runs of the tests go, a directory each (default: %(default)s)",
    )
    parser.add_argument(
        "--tests",
        type=Path,
        default=TESTS,
        metavar="DIR",
        help="where the tests are that the table names (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> Verdict:
    """Seed, run, and print the score."""
    faults = [fault for fault in FAULTS.values() if _is_wanted(fault, args.only)]
    if not faults:
        raise ConfigError(
            f"no fault is named like {', '.join(args.only)}", hint="imsh faults --list"
        )
    if args.list:
        for fault in faults:
            print(f"{fault.name}  ({', '.join(fault.rows)})\n    {fault.imitates}")
        return Verdict.PASS
    campaign = Campaign(
        faults=faults,
        kernels=make_selection(None, args.kernel).kernel_names(),
        progress=Progress(sys.stderr),
        directory=args.results,
        tests=args.tests,
        resume=args.resume,
    )
    findings = []
    for finding in campaign.findings():
        findings.append(finding)
        print(finding, file=sys.stderr if args.json else sys.stdout, flush=True)
    score = Score.of(findings)
    print(_as_json(findings) if args.json else _summary(campaign.kernels, findings))
    everything = score.fates[Fate.CAUGHT] == score.applicable
    return Verdict.PASS if everything else Verdict.HARNESS_FAILURE


def _is_wanted(fault: Fault, patterns: Iterable[str]) -> bool:
    named = [*patterns] or ["*"]
    return any(fnmatch.fnmatch(fault.name, one) or one in fault.rows for one in named)


def _summary(kernels: Iterable[str], findings: list[Finding]) -> str:
    lines = [""]
    for kernel in kernels:
        lines.append(f"{kernel}: {Score.of(item for item in findings if item.kernel == kernel)}")
    lines.append(f"all: {Score.of(findings)}")
    return "\n".join(lines)


def _as_json(findings: list[Finding]) -> str:
    score = Score.of(findings)
    return json.dumps(
        {
            "caught_percent": score.percent,
            "applicable": score.applicable,
            "fates": score.fates,
            "findings": [dataclasses.asdict(finding) for finding in findings],
        },
        indent=2,
    )
