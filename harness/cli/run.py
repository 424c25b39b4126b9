"""Boot a guest kernel on a machine, drive MSI, MSI-X and IMS, and print what happened.

For each store: what the guest allocated, the message in the store, the remapping table entry
(IRTE) that it names, the CPU that the interrupt reached before and after a move, and the number of
trapped accesses to the store that each step cost. Then each store once more, with messages that
the hypervisor composes (the vIRTE call, docs/virte.md): a handle in the place of the IRTE, and the
calls that each step made. Every step is checked from both sides; the first check that fails ends
the run with status 1 and leaves the evidence in a directory.

With --keep the machine stays until Enter or Ctrl-C, its device plugged in: `imsh machines` lists
it, and docs/running-machines.md says how another process looks into it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import select
import shlex
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from harness.build.kbuild import CompileError
from harness.build.kernel import KernelRecipe
from harness.build.series import PatchDoesNotApply
from harness.config.recipes import load_machines
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.errors import ConfigError, HarnessError, Verdict
from harness.guest.facts import Function
from harness.host.signals import Interrupted
from harness.host.workspace import Workspace, make_workspace
from harness.hypervisor.entry import Route
from harness.report.run_store import RESULTS_DIRECTORY
from harness.report.verdict import verdict_of
from harness.scenario import COUNT, PORTS, Arrival, StoreReport, drive_stores, drive_stores_by_call
from harness.schema.names import choose
from harness.testbed.supplies import (
    DEFAULT_KERNEL,
    DEFAULT_MACHINE,
    make_provisioner,
)
from harness.testbed.trees import TREE_OPTIONS, add_tree_options, tree_recipe, tree_words
from harness.testbed.vm import Vm, running_vm

HOLD_ROUND_SECONDS: Final = 0.5
"""How soon a kept machine that is lost is noticed."""

HELP = "boot a guest kernel, drive MSI, MSI-X, IMS and the hypercall, print what happened"

ABORT: Final = 128
"""What ends `git bisect run`: nothing is known about the commit."""
CANNOT_TEST: Final = 125
"""What makes it skip a commit."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "--kernel",
        metavar="NAME",
        help=f"guest kernel, see `imsh kernels` (default: {DEFAULT_KERNEL})",
    )
    add_tree_options(parser.add_argument)
    parser.add_argument(
        "--machine",
        default=DEFAULT_MACHINE,
        metavar="NAME",
        help="machine, a file in guests/machines/ (default: %(default)s)",
    )
    parser.add_argument(
        "--ims",
        choices=("mapped", "trapped"),
        default="mapped",
        help="whether the guest maps the IMS array, or each access traps (default: %(default)s)",
    )
    parser.add_argument(
        "--append",
        default="",
        metavar="WORDS",
        help="add words to the guest kernel's command line, e.g. 'nox2apic ignore_loglevel'",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS_DIRECTORY,
        metavar="DIR",
        help="where console, logs and transcripts go (default: %(default)s)",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="hold the machine until Enter or Ctrl-C, also a failed one",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    parser.add_argument(
        "--git-bisect",
        action="store_true",
        help="exit as `git bisect run` wants it: 0 good, 1 bad, 125 does not build or boot, 128 "
        "the harness failed",
    )


def run(args: argparse.Namespace) -> Verdict | int:
    """Drive the stores and print."""
    if not args.git_bisect:
        return _run(args)[0]
    try:
        return bisect_status(*_run(args))
    except HarnessError as error:
        print(f"imsh: {error.verdict}: {error}", file=sys.stderr)
        untestable = isinstance(error, CompileError | PatchDoesNotApply)
        return CANNOT_TEST if untestable else ABORT


def bisect_status(verdict: Verdict, answered: bool) -> int:
    """Return the exit status that `git bisect run` takes for a verdict.

    :param answered: whether the guest came up; a kernel that does not boot cannot be tested.
    """
    if verdict is Verdict.PASS:
        return 0
    if verdict in (Verdict.KERNEL_FAILURE, Verdict.TIME_OUT):
        return 1 if answered else CANNOT_TEST
    return ABORT


def _run(args: argparse.Namespace) -> tuple[Verdict, bool]:
    """Return the verdict, and whether the guest came up."""
    provisioner = make_provisioner()
    machine = choose(load_machines(), args.machine, what="machine")
    if not machine.remaps_interrupts:
        raise ConfigError(
            f"the machine {args.machine} does not remap interrupts, and IMS needs that",
            hint="choose another with --machine",
        )
    recipe = _kernel(args, provisioner.recipes.kernels)
    qemu = provisioner.qemu()
    guest = provisioner.guest(recipe)
    machine = dataclasses.replace(machine, root_ports=max(machine.root_ports, PORTS))
    workspace = make_workspace(args.results, f"run-{recipe.name}-{args.machine}")
    show = _Show(as_json=args.json)
    answered = False
    try:
        with running_vm(
            guest, qemu, machine, workspace, kernel_arguments=tuple(shlex.split(args.append))
        ) as vm:
            answered = True
            show.start(vm.provenance())
            vm.observer.table()  # a kernel without remapping fails of that, first
            with vm.ims_function(ImsFunctionSpec(ims_mapped=args.ims == "mapped")) as plugged:
                show.function(plugged.control.facts())
                try:
                    by_call = drive_stores_by_call(vm, plugged)
                    for report in itertools.chain(drive_stores(plugged), by_call):
                        show.store(report)
                finally:
                    if args.keep:
                        _hold(vm)
            vm.check_kernel_log()
    except Exception as error:
        if not isinstance(error, HarnessError):  # of the device, or ours
            traceback.print_exc()
        verdict = verdict_of(error, about_guest=False)
        show.end(verdict, str(error) or repr(error))
        _show_evidence(workspace, _reproduce_line(args, recipe))
        return verdict, answered
    show.end(Verdict.PASS, "")
    return Verdict.PASS, answered


def _kernel(args: argparse.Namespace, known: Mapping[str, KernelRecipe]) -> KernelRecipe:
    own = tree_recipe(*(getattr(args, name) for name in TREE_OPTIONS))
    if own and args.kernel:
        raise ConfigError(f"--kernel and {tree_words(own)[0]} both name the guest kernel: give one")
    return own or choose(known, args.kernel or DEFAULT_KERNEL, what="kernel")


def _hold(vm: Vm) -> None:
    """Let the machine run until the user has done with it, or it is lost."""
    print(
        f"\nthe machine is kept; Enter or Ctrl-C ends it\n{vm.workspace.directory}", file=sys.stderr
    )
    inputs = [sys.stdin]
    with contextlib.suppress(Interrupted):
        while vm.machine.vitals.error is None:
            if select.select(inputs, [], [], HOLD_ROUND_SECONDS)[0]:
                if sys.stdin.readline():
                    return
                inputs = []  # nobody is there to press Enter


def _reproduce_line(args: argparse.Namespace, recipe: KernelRecipe) -> str:
    kernel = tree_words(recipe) or ["--kernel", recipe.name]
    words = ["imsh", "run", *kernel, "--machine", args.machine, "--ims", args.ims]
    return shlex.join([*words, *(["--append", args.append] if args.append else [])])


def _show_evidence(workspace: Workspace, line: str) -> None:
    print(f"\nevidence: {workspace.directory}", file=sys.stderr)
    for path in sorted(workspace.directory.iterdir()):
        print(f"    {path.name}", file=sys.stderr)
    print(f"reproduce: {line}", file=sys.stderr)


class _Show:
    """Prints for a human as it happens, or one JSON object at the end."""

    def __init__(self, *, as_json: bool):
        self._json = as_json
        self._object: dict[str, Any] = {"stores": []}

    def start(self, provenance: dict[str, str]) -> None:
        self._object["provenance"] = provenance
        self._line(f"guest    Linux {provenance['kernel release']} ({provenance['kernel']})")
        self._line(f"machine  {provenance['machine']}, QEMU {provenance['qemu']}")

    def function(self, facts: Function) -> None:
        self._object["function"] = facts.slot
        self._object["ims_domain"] = facts.ims_domain
        self._line(f"device   IMS function at {facts.slot}, IMS by the {facts.ims_domain}'s domain")

    def store(self, report: StoreReport) -> None:
        self._object["stores"].append(_plain(report))
        route = f"handle {report.name:#x}" if report.by_call else f"IRTE {report.name}"
        self._line(f"\n{report.store.name}" + (" by the hypercall" if report.by_call else ""))
        self._line(f"  allocated  {COUNT} interrupts, virq {', '.join(map(str, report.virqs))}")
        self._line(f"  message    {report.message} in entry {report.index}")
        self._line(f"  route      {route}: {report.before}")
        if report.after:
            self._line(f"  moved to   {route}: {report.after}")
            reached = f"{report.before.cpu} before the move, {report.after.cpu} after"
        else:
            reached = f"{report.before.cpu}, and there is no other to move to"
        self._line(f"  reached    CPU {reached}")
        traps = ", ".join(f"{step.name} {step.traps}" for step in report.steps)
        self._line(f"  trapped    {traps} accesses to the store")
        if report.by_call:
            calls = ", ".join(f"{step.name} {step.calls}" for step in report.steps)
            self._line(f"  called     {calls} times, each call a trapped access")

    def end(self, verdict: Verdict, reason: str) -> None:
        self._object["verdict"] = verdict.value
        self._object["reason"] = reason
        if self._json:
            print(json.dumps(self._object, indent=2))
            return
        self._line(f"\nverdict: {verdict.value}" + (f": {reason}" if reason else ""))

    def _line(self, text: str) -> None:
        if not self._json:
            print(text, flush=True)


def _plain(report: StoreReport) -> dict[str, Any]:
    def arrival(item: Arrival) -> dict[str, Any]:
        route: dict[str, Any] = (
            {"route": dataclasses.asdict(item.route)}
            if isinstance(item.route, Route)
            else {"irte": f"{item.route.value:#034x}"}
        )
        return {**route, "cpu": item.cpu}

    return {
        "store": report.store.name,
        "hypercall": report.by_call,
        "virqs": report.virqs,
        "index": report.index,
        "message": {"address": report.message.address, "data": report.message.data},
        "handle" if report.by_call else "irte_index": report.name,
        "before": arrival(report.before),
        "after": report.after and arrival(report.after),
        "trapped": {step.name: step.traps for step in report.steps},
        "calls": {step.name: step.calls for step in report.steps},
    }
