"""Try everything that imsh needs on this machine, and say what is missing and how to mend it.

Nothing is judged by its looks: user namespaces are made, the archive is asked, a guest that is
built is booted, by software emulation and by KVM. What is optional (KVM) and what imsh makes by
itself (QEMU, guests) may be missing; the exit status is 3 when something required is.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

from harness.doctor import examine
from harness.errors import Verdict
from harness.host.requirements import Diagnosis

HELP = "try what imsh needs on this machine, and say how to mend what is missing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--json", action="store_true", help="print a JSON list, for scripts")


def run(args: argparse.Namespace) -> Verdict:
    """Examine and print."""
    diagnoses = []
    for diagnosis in examine():
        diagnoses.append(diagnosis)
        if not args.json:
            _print(diagnosis)
    fatal = [diagnosis.name for diagnosis in diagnoses if diagnosis.is_fatal]
    if args.json:
        print(json.dumps([dataclasses.asdict(diagnosis) for diagnosis in diagnoses], indent=2))
    else:
        print(f"\nmissing: {', '.join(fatal)}" if fatal else "\nnothing that is needed is missing")
    return Verdict.MISSING_REQUIREMENT if fatal else Verdict.PASS


def _print(diagnosis: Diagnosis) -> None:
    name = diagnosis.name if diagnosis.required else f"{diagnosis.name} (optional)"
    print(f"{diagnosis.status:<9}  {name:<34}  {diagnosis.detail}", flush=True)
    if diagnosis.hint:
        print(f"{'':9}  {'':34}  -> {diagnosis.hint}", flush=True)
