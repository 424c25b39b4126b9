"""Options and markers, and what stands at the head of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from harness.build.provision import Provisioner
from harness.errors import HarnessError
from harness.pytest_plugin.record import Record
from harness.pytest_plugin.workers import GroupScheduling
from harness.report.run_store import RESULTS_DIRECTORY, Head, describe_run
from harness.testbed.selection import DEFAULT_MATRIX, Selection, make_selection
from harness.testbed.supplies import make_provisioner
from harness.testbed.trees import (
    OWN_KERNEL,
    TREE_OPTIONS,
    add_tree_options,
    read_states,
    states_text,
    tree_recipe,
)

_MARKERS = (
    "capability(*rows): rows of the capability table that the test proves",
    "kernel(*names): guest kernels that the test is for (default: the matrix's)",
    "machine(*names): machines that the test is for (default: the matrix's)",
    "cold_boot(*words): boot for real instead of from a snapshot, with words for the kernel",
    "shared_vm(scope): keep one guest for the tests of a 'class' or 'module'",
    "cpus(count): the machine needs so many CPUs; on one with fewer the test is skipped",
    "leaves(*what): what the test leaves behind on purpose: 'events', 'audit', 'stale', 'entries'",
    "device(**spec): fields of harness.devices.ims_function.spec.ImsFunctionSpec for ims_device",
)
_NARROWING: Final = ("matrix", "kernel", "machine")
"""Options that say what a run covers: the arguments of :func:`make_selection`."""
_PICKING: Final = (
    "keyword", "markexpr", "deselect", "ignore", "ignore_glob", "lf", "stepwise", "maxfail",
)  # fmt: skip
"""Options of pytest's own that leave tests out."""
_WORKER_KEY: Final = "imsh_run"
_RECORD: Final = pytest.StashKey[Record]()
_STATES_KEY: Final = "imsh_tree_states"
_PROVISIONER: Final = pytest.StashKey[Provisioner]()
_SELECTION: Final = pytest.StashKey[Selection]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("imsh", "guest kernels and machines")
    group.addoption(
        "--matrix",
        metavar="NAME",
        help="kernels and machines to cover: a matrix's name, or its file "
        f"(default: {DEFAULT_MATRIX})",
    )
    for what, more in (("kernel", ""), ("machine", "; one beside: tests that are marked for it")):
        group.addoption(
            f"--{what}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"of these, only this {what} (repeatable)" + more,
        )
    add_tree_options(group.addoption)
    group.addoption(
        "--results",
        type=Path,
        default=RESULTS_DIRECTORY,
        metavar="DIR",
        help="where runs are kept, a directory each (default: %(default)s)",
    )
    group.addoption(
        "--first",
        default="",
        metavar="ROWS",
        help="run tests that claim these rows of the capability table first (A2,B4)",
    )
    group.addoption(
        "--require",
        action="store_true",
        help="a missing requirement is an error instead of a skip (for CI)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, and keep the record where all reports come together.

    :raises pytest.UsageError: an option names a matrix, a kernel or a machine that there is not.
    """
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    if any(config.getoption(name) for name in (*_NARROWING, *TREE_OPTIONS)):
        try:
            if selection(config).tree and not config.getoption("collectonly"):
                config.stash[_PROVISIONER] = _with_tree(config)
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from error
    if not hasattr(config, "workerinput") and not config.getoption("collectonly"):
        record = Record(config.rootpath / Path(config.getoption("results")), _head(config))
        config.pluginmanager.register(record)
        config.stash[_RECORD] = record


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of xdist which run it works for, and what was found in its tree."""
    if _RECORD in node.config.stash:
        node.workerinput[_WORKER_KEY] = str(run_directory(node.config))
    if known := node.config.stash.get(_PROVISIONER, None):
        node.workerinput[_STATES_KEY] = states_text(known.states)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say why so few tests have run on a machine that the matrix lacks."""
    if not config.getoption("machine"):
        return
    covered = selection(config)
    for name in covered.machines_outside:
        terminalreporter.write_line(
            f"imsh: the matrix {covered.matrix.name} has no machine {name}: only tests that are "
            "marked for it were left; for all of them, give --matrix a file that has it"
        )


def run_directory(config: pytest.Config) -> Path:
    """Return where this run keeps its results and the evidence of failures."""
    if given := getattr(config, "workerinput", None):
        return Path(given[_WORKER_KEY])
    return config.stash[_RECORD].directory


def _head(config: pytest.Config) -> Head:
    workers = config.getoption("numprocesses", None)
    words = config.invocation_params.args
    return describe_run(
        ["pytest", *map(str, words)],
        config.invocation_params.dir,
        matrix=config.getoption("matrix") or DEFAULT_MATRIX,
        workers=workers if isinstance(workers, int) and workers else 1,
        whole=not any(
            config.getoption(name, None) for name in (*_NARROWING, *_PICKING, *OWN_KERNEL)
        )
        and not any("::" in word or word.endswith(".py") for word in config.args),
    )


def _with_tree(config: pytest.Config) -> Provisioner:
    """Return a provisioner that has built the user's kernel of the command line.

    A run has one kernel of it, however the tree is edited meanwhile: workers take what the
    controller has seen.
    """
    tree = selection(config).tree
    assert tree is not None
    provisioner = make_provisioner(more=[tree])
    if hasattr(config, "workerinput"):
        provisioner.states.update(read_states(config.workerinput[_STATES_KEY]))
    else:
        provisioner.guest(tree)
    return provisioner


def provisioner_of(config: pytest.Config) -> Provisioner:
    """Return what provides the guests of a run."""
    if _PROVISIONER not in config.stash:
        config.stash[_PROVISIONER] = make_provisioner()
    return config.stash[_PROVISIONER]


def selection(config: pytest.Config) -> Selection:
    """Return what the run covers. Recipes are read when the first test asks for a guest."""
    if _SELECTION not in config.stash:
        tree = tree_recipe(*map(config.getoption, TREE_OPTIONS))
        matrix, kernels, machines = map(config.getoption, _NARROWING)
        config.stash[_SELECTION] = make_selection(matrix, kernels, machines, tree)
    return config.stash[_SELECTION]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> GroupScheduling | None:
    """Keep groups together, and survive the loss of a worker."""
    return GroupScheduling(config, log) if config.getoption("dist") == "loadgroup" else None
