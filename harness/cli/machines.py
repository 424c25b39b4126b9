"""List the machines that run now, of this user: in tests, in `imsh run`, in any process.

docs/running-machines.md says what else another process can ask of a machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time

from harness.errors import Verdict
from harness.testbed.reach import RunningMachine, running_machines

HELP = "list the machines that run now"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--json", action="store_true", help="print a JSON list, for scripts")


def run(args: argparse.Namespace) -> Verdict:
    """Print the list."""
    machines = running_machines()
    if args.json:
        known = [dataclasses.asdict(item) | {"socket": str(item.socket)} for item in machines]
        print(json.dumps(known, indent=2))
        return Verdict.PASS
    for machine in machines:
        _show(machine)
    if not machines:
        print("no machine runs")
    return Verdict.PASS


def _show(machine: RunningMachine) -> None:
    status = machine.status
    if "error" in status:
        print(f"{machine.name}  {status['error']}")
        return
    made_of = status["provenance"]
    seconds = time.time() - status["since"]
    print(
        f"{machine.name}  {made_of['kernel']} on {made_of['machine']}, "
        f"process {status['pid']} (QEMU {status['qemu_pid']}), for {seconds:.0f} s"
    )
    print(f"    {status['workspace']}")
    if status["lost"]:
        print(f"    lost: {status['lost']}")
