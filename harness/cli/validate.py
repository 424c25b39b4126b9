"""Validate a kernel change: build base and patched, run the tests on both, compare.

    imsh validate --tree ~/linux --base v6.12 --series v2.mbox     a series on top of a base
    imsh validate --tree ~/linux --base v6.12                      the tree as it is, against a base
    imsh validate --tree ~/linux --series v2.mbox --per-patch      and each patch of the series
    imsh validate --tree ~/linux --base v6.12 -- tests/guest/test_msi.py -k moved

The tests whose rows the change is most likely to break run first. Each test is called same, fixed,
broken, flaky, new or not run, on each machine of the matrix: one that fails on the patched kernel
alone is run again on both, three times and more if that is not certain, before it is called broken.
What operations cost (trapped accesses, invalidations, calls, interrupts per second) is measured on
both in turn, and called worse only where it differs by more than the noise of that very run.

The report is plain text for a mail; it is kept in every format beside the results.

The status is 0 when nothing got worse, 1 when something did (a test, a build, a cost, a series that
does not apply), 2 when the harness failed or a failure is not certain, 3 when something was missing
that the base has run with. docs/validate.md says more, of b4 and git bisect as well.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from harness.build.kbuild import CompileError
from harness.build.kernel import KernelRecipe
from harness.build.series import PatchDoesNotApply
from harness.cli.run import ABORT, CANNOT_TEST
from harness.errors import ConfigError, HarnessError, Verdict
from harness.host.progress import Progress
from harness.host.resources import harness_version
from harness.host.slowdown import stretch_timeouts
from harness.host.workspace import directory_lock, make_workspace
from harness.testbed.selection import DEFAULT_MATRIX, make_selection
from harness.testbed.supplies import make_provisioner
from harness.testbed.trees import add_tree_options, tree_recipe, tree_words
from harness.validate.formats import FORMATS
from harness.validate.report import Report
from harness.validate.states import changed_paths, read_states
from harness.validate.telling import telling_rows
from harness.validate.trial import TESTS, directory_of_tests
from harness.validate.validation import Validator

HELP = "build and test a kernel with and without your patches, and compare"

VALIDATIONS: Final = Path("build/validations")
"""Where validations are kept: their kernels are no guest kernels of the matrix, so not among the
runs that prove rows."""
KEPT: Final = 10
"""Validations that stay."""
ROUNDS: Final = 5
STDIN: Final = "-"
"""In the place of a series: mails on standard input, as b4 hands them on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    add_tree_options(parser.add_argument)
    parser.add_argument(
        "--base",
        metavar="REV",
        help="the commit to compare with, and which the series goes on (default: the tree as it "
        "is, when there is a series)",
    )
    parser.add_argument(
        "--per-patch", action="store_true", help="try each patch of the series, and name the first "
        "with which a test is broken"
    )  # fmt: skip
    parser.add_argument(
        "--matrix",
        default=DEFAULT_MATRIX,
        metavar="NAME",
        help="the machines to run on, see guests/matrices/ (default: %(default)s)",
    )
    parser.add_argument(
        "--measure",
        type=int,
        default=ROUNDS,
        metavar="ROUNDS",
        help="how often the cost of operations is measured on each kernel; 0: not at all "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="machines side by side (default: a CPU each, %(default)s)",
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="text", help="what is printed (default: %(default)s)"
    )
    parser.add_argument(
        "--json", action="store_const", const="json", dest="format", help="--format json"
    )
    parser.add_argument(
        "--quiet", action="store_true", help="say nothing of the progress on standard error"
    )
    parser.add_argument(
        "--git-bisect",
        action="store_true",
        help="exit as `git bisect run` wants it: 0 not worse than the base, 1 worse, 125 does not "
        "build, 128 not known",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=VALIDATIONS,
        metavar="DIR",
        help="where results and reports are kept, a directory each (default: %(default)s)",
    )
    parser.add_argument(
        "tests",
        nargs="*",
        metavar="TESTS",
        help=f"what pytest is to run, from the top of imsh's checkout (default: {TESTS}); "
        "after -- words like -k moved as well",
    )


def run(args: argparse.Namespace) -> Verdict | int:
    """Validate, print the report, and keep it."""
    if not args.git_bisect:
        return _validate(args).verdict
    try:
        report = _validate(args)
    except HarnessError as error:
        print(f"imsh: {error.verdict}: {error}", file=sys.stderr)
        return CANNOT_TEST if isinstance(error, CompileError) else ABORT
    return bisect_status(report)


def bisect_status(report: Report) -> int:
    """Return the exit status that `git bisect run` takes for a report."""
    if report.refused or report.not_built:
        return CANNOT_TEST
    return {Verdict.PASS: 0, Verdict.KERNEL_FAILURE: 1}.get(report.verdict, ABORT)


def _validate(args: argparse.Namespace) -> Report:
    began, started = time.monotonic(), datetime.datetime.now(datetime.UTC)
    recipe = tree_recipe(args.tree, args.rev, args.series, args.kconfig, compiler=args.compiler)
    if recipe is None or (tree := recipe.tree) is None:
        raise ConfigError("no tree to validate", hint="name it: --tree ~/linux")
    if args.workers < 1 or args.measure < 0:
        raise ConfigError("--workers takes a number from 1 on, --measure one from 0 on")
    make_selection(args.matrix, tree=recipe)  # a typo is told before anything is built
    stretch_timeouts(args.workers)
    progress = Progress(None if args.quiet else sys.stderr)
    provisioner = make_provisioner(progress, more=[recipe])
    name = f"{started:%Y%m%dT%H%M%SZ}-{recipe.name}"
    directory = make_workspace(args.results.absolute(), name).directory
    if STDIN in args.series:
        mails = directory / "series.mbox"
        mails.write_bytes(sys.stdin.buffer.read())
        series = tuple(str(mails) if item == STDIN else item for item in tree.series)
        tree = replace(tree, series=series)
        recipe = replace(recipe, tree=tree)
    tests = _with_place(args.tests)
    facts = {
        "tree": str(tree.directory),
        "matrix": args.matrix,
        "tests": tuple(tests),
        "imsh": harness_version(),
        "host": f"{platform.node()}, {platform.system()} {platform.release()}",
        "started": started.isoformat(timespec="seconds"),
        "directory": str(directory),
        "command": tuple(_command(args, recipe)),
    }
    with directory_lock(directory):
        try:
            states = read_states(provisioner.trees, recipe, args.base, per_patch=args.per_patch)
        except PatchDoesNotApply as error:
            refused = Report(
                **facts, base=args.base or "the tree as it is", patched="", series=(), rows=(),
                seconds=time.monotonic() - began, refused=str(error),
            )  # fmt: skip
            return _kept(refused, directory, args.format)
        rows = telling_rows(changed_paths(provisioner.trees, recipe, states))
        validator = Validator(
            provisioner=provisioner,
            progress=progress,
            directory=directory,
            options=["--matrix", args.matrix, *(("--first", ",".join(rows)) if rows else ())],
            tests=tests,
            workers=args.workers,
            rounds=args.measure,
        )
        tried = validator.validate(states.base, states.candidates)
        whole = states.candidates[-1]
        costs = validator.measure(states.base, whole) if tried[-1].comparison else []
        report = Report(
            **facts,
            base=states.base.version,
            patched=whole.subject.version,
            series=states.series,
            rows=tuple(rows),
            seconds=time.monotonic() - began,
            tried=tuple(tried),
            costs=tuple(costs),
        )
        report = _kept(report, directory, args.format)
    _remove_old(args.results)
    return report


def _with_place(words: list[str]) -> list[str]:
    """Return the words for pytest; where none of them is a place of tests, with ours."""
    top = directory_of_tests()
    placed = any((top / word.partition("::")[0]).exists() for word in words if word[:1] != "-")
    return words if placed else [TESTS, *words]


def _command(args: argparse.Namespace, recipe: KernelRecipe) -> list[str]:
    """Return the words that do it again, from wherever they are given."""
    words = ["imsh", "validate", *tree_words(recipe)]
    words += ["--base", args.base] if args.base else []
    words += ["--per-patch"] if args.per_patch else []
    words += ["--matrix", args.matrix] if args.matrix != DEFAULT_MATRIX else []
    words += ["--measure", str(args.measure)] if args.measure != ROUNDS else []
    return words + (["--", *args.tests] if args.tests else [])


def _kept(report: Report, directory: Path, shown: str) -> Report:
    """Write the report in every format, and print one."""
    for name, (file, text) in FORMATS.items():
        said = text(report)
        (directory / file).write_text(said, encoding="utf-8")
        if name == shown:
            print(said, end="", flush=True)
    return report


def _remove_old(results: Path) -> None:
    """Remove all but the newest validations; one that goes on holds its directory."""
    for old in sorted(results.glob("*/"), reverse=True)[KEPT:]:
        try:
            with directory_lock(old):
                shutil.rmtree(old, ignore_errors=True)
        except ConfigError:
            continue
