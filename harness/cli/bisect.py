"""Find the commit, or the patch of a series, that made tests fail in the guest.

    imsh bisect --tree ~/linux --good v6.12 --bad topic -- tests/guest/test_invalidation.py
    imsh bisect --tree ~/linux --series ~/mail/v2.mbox -- tests/guest/test_msix.py

git bisect is driven in a repository of imsh's own; yours is only read. Both ends are tried first,
then each commit that git asks for is built and the tests that fail at the bad end are run on it;
last the culprit and the commit before it are tried again. A commit that does not build or boot is
skipped. When the harness or the host fails the search ends, for then nothing is known.

The same command goes on where an earlier one was interrupted. Status: 0 the culprit was found; 1
it could not be told, as commits cannot be tested; 64 the ends are not what they were said to be.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from harness.bisect.history import History
from harness.bisect.laboratory import TreeLaboratory
from harness.bisect.report import report
from harness.bisect.search import Found, Search
from harness.bisect.tries import Journal
from harness.build.kernel import TreeSource
from harness.build.tree import Trees
from harness.errors import ConfigError, Verdict
from harness.host.cache import digest
from harness.host.workspace import directory_lock
from harness.testbed.selection import make_selection
from harness.testbed.supplies import make_provisioner
from harness.testbed.trees import add_tree_options, tree_recipe

HELP = "find the commit that made tests fail, by git bisect"

BISECTIONS: Final = Path("build/bisect")
"""Where bisections are kept unless told otherwise, below the current directory."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--tree", required=True, metavar="PATH", help="the kernel tree")
    parser.add_argument(
        "--good",
        metavar="REV",
        help="a commit at which the tests pass (with --series: what it goes on top of; default: "
        "the tree as it is)",
    )
    end = parser.add_mutually_exclusive_group(required=True)
    end.add_argument("--bad", metavar="REV", help="a later commit, at which they fail")
    end.add_argument(
        "--series",
        action="append",
        default=[],
        metavar="WHAT",
        help="instead of --bad, a series that makes them fail: an mbox, a directory, or a range of "
        "commits (repeatable)",
    )
    add_tree_options(parser.add_argument, ("--kconfig", "--compiler"))
    parser.add_argument("--matrix", metavar="NAME", help="machines that the tests are run on")
    parser.add_argument(
        "--machine",
        action="append",
        default=[],
        metavar="NAME",
        help="of these, only this machine (repeatable)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=BISECTIONS,
        metavar="DIR",
        help="where bisections are kept, a directory each (default: %(default)s)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="forget what an earlier, equal command has found out"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    parser.add_argument("tests", nargs="+", metavar="TESTS", help="what pytest takes as tests")


def run(args: argparse.Namespace) -> Verdict | int:
    """Search, and print the report."""
    if args.good is None and not args.series:
        raise ConfigError("--bad needs --good as well", hint="name a commit at which they pass")
    make_selection(args.matrix, (), args.machine)  # a name that is none is told before the build
    recipe = tree_recipe(args.tree, args.good, args.series, args.kconfig, compiler=args.compiler)
    assert recipe is not None
    assert recipe.tree is not None
    provisioner = make_provisioner(more=[recipe])
    good, bad = _ends(provisioner.trees, recipe.tree, args.bad)
    options = [*(["--matrix", args.matrix] if args.matrix else [])]
    options += [word for name in args.machine for word in ("--machine", name)]
    key = digest(str(recipe.tree.directory), good, bad, recipe.tree.config, options, args.tests)
    directory = (args.results / f"{recipe.tree.directory.name}-{key}").absolute()
    with directory_lock(directory):
        if args.fresh:
            shutil.rmtree(directory / "tries", ignore_errors=True)
            (directory / "tries.jsonl").unlink(missing_ok=True)
        with provisioner.trees.opened(recipe.tree) as checkout:
            objects = checkout.repository.directory / "objects"
        history = History(directory / "repository", objects, good, bad)
        laboratory = TreeLaboratory(
            provisioner=provisioner,
            recipe=recipe,
            options=tuple(options),
            tests=tuple(args.tests),
            directory=directory / "tries",
        )
        journal = Journal(directory / "tries.jsonl")
        search = Search(history, laboratory, journal, provisioner.cache.progress)
        found = search.run(good, bad)
        text = report(found, search, history, _command(args))
        (directory / "report.txt").write_text(text)
        (directory / "git-bisect.log").write_text(history.log + "\n")
        print(_as_json(found, search, directory) if args.json else text, flush=True)
    print(f"kept in {directory}", file=sys.stderr)
    return Verdict.PASS if found.sure else 1


def _ends(trees: Trees, source: TreeSource, bad: str | None) -> tuple[str, str]:
    """Return the commits that are the good and the bad end."""
    states = trees.states(source)
    if bad is not None:
        states += trees.states(dataclasses.replace(source, revision=bad))
    return states[0].commit, states[-1].commit


def _command(args: argparse.Namespace) -> str:
    words = ["imsh", "bisect", "--tree", args.tree]
    for name in ("good", "bad", "kconfig", "compiler", "matrix"):
        words += [f"--{name}", value] if (value := getattr(args, name)) else []
    for name in ("series", "machine"):
        words += [word for value in getattr(args, name) for word in (f"--{name}", value)]
    return shlex.join([*words, "--", *args.tests])


def _as_json(found: Found, search: Search, directory: Path) -> str:
    return json.dumps(
        {
            "culprit": found.candidates[0] if len(found.candidates) == 1 else None,
            "candidates": found.candidates,
            "sure": found.sure,
            "tests": found.sought.tests,
            "marks": found.marks,
            "failed": {commit: str(search.record(commit)[0]) for commit in found.marks},
            "directory": str(directory),
        },
        indent=2,
    )
