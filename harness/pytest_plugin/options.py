"""Options and markers, and what stands at the head of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from harness.errors import HarnessError
from harness.pytest_plugin.record import Record
from harness.pytest_plugin.workers import GroupScheduling
from harness.report.outcome import RESULTS_DIRECTORY
from harness.testbed.selection import DEFAULT_MATRIX, Selection, make_selection

_MARKERS = (
    "capability(*rows): rows of the capability table that the test proves",
    "kernel(*names): guest kernels that the test is for (default: the matrix's)",
    "machine(*names): machines that the test is for (default: the matrix's)",
    "cold_boot(*words): boot for real instead of from a snapshot, with words for the kernel",
    "shared_vm(scope): keep one guest for the tests of a 'class' or 'module'",
    "device(**spec): fields of harness.devices.ims_function.spec.ImsFunctionSpec for ims_device",
)
_NARROWING: Final = ("matrix", "kernel", "machine")
"""Options that say what a run covers: the arguments of :func:`make_selection`."""
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
    for what in ("kernel", "machine"):
        group.addoption(
            f"--{what}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"of these, only this {what} (repeatable)",
        )
    group.addoption(
        "--results",
        type=Path,
        default=RESULTS_DIRECTORY,
        metavar="DIR",
        help="where records and the evidence of failures go (default: %(default)s)",
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
    if any(config.getoption(name) for name in _NARROWING):
        try:
            selection(config)
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from error
    if not hasattr(config, "workerinput"):
        workers = config.getoption("numprocesses", None)
        count = workers if isinstance(workers, int) and workers else 1
        config.pluginmanager.register(Record(results_directory(config), count))


def results_directory(config: pytest.Config) -> Path:
    """Return where records and the evidence of failures go."""
    return config.rootpath / Path(config.getoption("results"))


def selection(config: pytest.Config) -> Selection:
    """Return what the run covers. Recipes are read when the first test asks for a guest."""
    if _SELECTION not in config.stash:
        config.stash[_SELECTION] = make_selection(*map(config.getoption, _NARROWING))
    return config.stash[_SELECTION]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> GroupScheduling | None:
    """Keep groups together, and survive the loss of a worker."""
    return GroupScheduling(config, log) if config.getoption("dist") == "loadgroup" else None
