"""Ask real guests whether they may use IMS: proposed rules on each platform, wrong answers marked.

A machine whose recipe says `own_pairs_work` stands for a platform: there a message that the kernel
composed itself works in an IMS store, or it does not. No rule is told which; each goes by what it
can see from inside. docs/ims-policy.md says what the rules are, and what the table shows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.config.matrix import Cell
from harness.config.recipes import load_machines
from harness.errors import ConfigError, Verdict
from harness.guest.policy import PolicyFacts, Rule, RuleVerdict
from harness.qemu.command import MachineSpec
from harness.report.run_store import RESULTS_DIRECTORY
from harness.schema.names import choose
from harness.testbed.lender import VmLender
from harness.testbed.supplies import DEFAULT_KERNEL, make_provisioner

HELP = "ask guests whether they may use IMS: proposed rules against platforms"

ALL: Final = "all"

LEGEND: Final = """\
!!  allowed where own pairs do not work: interrupts are lost
!   refused where they do: MSI-X is used instead"""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the rules say on one machine."""

    machine: str
    own_pairs_work: bool
    facts: PolicyFacts

    def mark(self, verdict: RuleVerdict) -> str:
        """Return how wrong a rule is here: not at all, on the safe side, or on the other."""
        if verdict.allowed == self.own_pairs_work:
            return ""
        return "!!" if verdict.allowed else "!"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "--kernel",
        action="append",
        metavar="NAME",
        help=f"guest kernel, or '{ALL}' (repeatable; default: {DEFAULT_KERNEL})",
    )
    parser.add_argument(
        "--machine",
        action="append",
        metavar="NAME",
        help="machine whose recipe says own_pairs_work (repeatable; default: each of them)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS_DIRECTORY,
        metavar="DIR",
        help="where the logs of a machine that fails go (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list, for scripts")


def run(args: argparse.Namespace) -> Verdict:
    """Boot the machines, or continue them, and print what the rules say there."""
    machines = platforms(load_machines(), args.machine)
    provisioner = make_provisioner()
    kernels = _kernels(provisioner.recipes.kernels, args.kernel or [DEFAULT_KERNEL])
    answers: dict[str, list[Answers]] = {}
    with VmLender(provisioner, machines, args.results / "policy") as lender:
        for kernel in kernels:
            answers[kernel] = [_ask(lender, kernel, spec) for spec in machines.values()]
    if args.json:
        found = [_plain(kernel, row) for kernel in kernels for row in answers[kernel]]
        print(json.dumps(found, indent=2))
        return Verdict.PASS
    for rows, by in _same(answers):
        print(f"{', '.join(by)}\n")
        print("\n".join(table(rows)), end="\n\n")
    print(LEGEND)
    return Verdict.PASS


def platforms(
    machines: Mapping[str, MachineSpec], names: Sequence[str] | None
) -> dict[str, MachineSpec]:
    """Return the machines that stand for a platform, or those of them that are named.

    :raises ConfigError: there is no such machine, or it stands for none.
    """
    standing = {name: spec for name, spec in machines.items() if spec.own_pairs_work is not None}
    if not names:
        return standing
    for name in names:
        if choose(machines, name, what="machine").own_pairs_work is None:
            raise ConfigError(
                f"the machine {name} stands for no platform: its recipe has no own_pairs_work",
                hint=f"these do: {', '.join(standing)}",
            )
    return {name: standing[name] for name in names}


def table(rows: Sequence[Answers]) -> list[str]:
    """Return the lines of a table, a machine each."""
    cells = [["machine", "own pairs", *Rule]]
    for row in rows:
        words = [row.machine, "work" if row.own_pairs_work else "do not work"]
        for rule in Rule:
            verdict = row.facts[rule]
            said = "allowed" if verdict.allowed else "refused"
            words.append(f"{said} {row.mark(verdict)}".rstrip())
        cells.append(words)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]


def _kernels(known: Mapping[str, object], names: Sequence[str]) -> list[str]:
    if ALL in names:
        return [*known]
    for name in names:
        choose(known, name, what="kernel", also=[ALL])
    return [*names]


def _ask(lender: VmLender, kernel: str, spec: MachineSpec) -> Answers:
    with lender.fresh_vm(Cell(kernel, spec.name)) as vm:
        return Answers(spec.name, bool(spec.own_pairs_work), vm.control.policy())


def _same(answers: Mapping[str, list[Answers]]) -> list[tuple[list[Answers], list[str]]]:
    """Return each different table with the kernels that gave it."""
    found: list[tuple[list[Answers], list[str]]] = []
    for kernel, rows in answers.items():
        for others, by in found:
            if others == rows:
                by.append(kernel)
                break
        else:
            found.append((rows, [kernel]))
    return found


def _plain(kernel: str, row: Answers) -> dict[str, Any]:
    rules = {
        verdict.rule.value: {
            "allowed": verdict.allowed,
            "right": not row.mark(verdict),
            "why": verdict.why,
        }
        for verdict in row.facts.rules
    }
    return {
        "kernel": kernel,
        "machine": row.machine,
        "own_pairs_work": row.own_pairs_work,
        "rules": rules,
    }
