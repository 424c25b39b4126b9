"""``--fault NAME``: each test's machine has this fault, from before the test's first step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import pytest

from harness.errors import HarnessError
from harness.faults.campaign import FAULT_RUNS
from harness.faults.fault import Fault
from harness.faults.score import FAULT_PROPERTY
from harness.faults.table import choose_fault
from harness.report.run_store import RESULTS_DIRECTORY
from harness.testbed.vm import Vm

_FAULT: Final = pytest.StashKey[Fault]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("imsh").addoption(
        "--fault",
        metavar="NAME",
        help="seed this fault into each test's machine, see `imsh faults --list`; results go to "
        f"{FAULT_RUNS} then: they prove no row",
    )


@pytest.hookimpl(tryfirst=True)  # the record is made with the directory of the results
def pytest_configure(config: pytest.Config) -> None:
    """Find the fault, and keep such a run away from those that prove something.

    :raises pytest.UsageError: there is no such fault.
    """
    if name := config.getoption("fault"):
        try:
            config.stash[_FAULT] = choose_fault(name)
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from error
        if config.option.results == RESULTS_DIRECTORY:
            config.option.results = FAULT_RUNS


@contextlib.contextmanager
def fault_sown(node: pytest.Item, vm: Vm) -> Iterator[None]:
    """Hold the fault of the run, if it has one, in the machine of a test.

    :raises NotApplicable: this kernel has no place for it.
    """
    if (fault := node.config.stash.get(_FAULT, None)) is None:
        yield
        return
    with fault.seed.sown(vm) as where:
        node.user_properties.append((FAULT_PROPERTY, f"{fault.name} at {where}"))
        yield
