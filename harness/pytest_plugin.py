"""The pytest plugin: fixtures that boot guests, markers, options, and the record of a run.

    def test_a_moved_interrupt_arrives_on_its_new_cpu(ims_device): ...

A test that asks for ``vm``, or for a fixture on top of it, runs once on every kernel and machine
that its markers and the command line leave.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import pytest

from harness.build.provision import Provisioner
from harness.config.matrix import Cell
from harness.config.recipes import RECIPES_VARIABLE, load_machines
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.errors import ConfigError, HarnessError, MissingRequirement, Verdict
from harness.guest.control import Control
from harness.guest.ssh import SshSession
from harness.host.process import shell_line
from harness.qemu.qmp import QmpSession
from harness.report.capabilities import capability_titles
from harness.report.outcome import RESULTS_DIRECTORY
from harness.report.record import FAILED, MACHINES, Record, plain_nodeid
from harness.report.verdict import graver, verdict_of
from harness.testbed.lender import VmLender
from harness.testbed.observer import Observer
from harness.testbed.plugged import PluggedFunction
from harness.testbed.selection import DEFAULT_MATRIX, Selection, make_selection
from harness.testbed.supplies import make_provisioner
from harness.testbed.vm import Vm
from harness.testbed.workers import GroupScheduling

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
_VM: Final = pytest.StashKey[Vm]()
_DEVICE: Final = pytest.StashKey[PluggedFunction]()
_PROVENANCE: Final = pytest.StashKey[dict[str, str]]()
_VERDICT: Final = pytest.StashKey[Verdict]()
_EVIDENCE: Final = pytest.StashKey[dict[str, str]]()
_COVERAGE: Final = pytest.StashKey[Selection]()


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
            _coverage(config)
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from error
    if not hasattr(config, "workerinput"):
        workers = config.getoption("numprocesses", None)
        count = workers if isinstance(workers, int) and workers else 1
        config.pluginmanager.register(Record(_results(config), count))


def _results(config: pytest.Config) -> Path:
    return config.rootpath / Path(config.getoption("results"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> GroupScheduling | None:
    """Keep groups together, and survive the loss of a worker."""
    return GroupScheduling(config, log) if config.getoption("dist") == "loadgroup" else None


# Which kernels and machines.


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that has a guest on every kernel and machine that are left."""
    if "vm_cell" not in metafunc.fixturenames:
        return
    try:
        coverage = _coverage(metafunc.config)
        cells = coverage.cells(_marked(metafunc, "kernel"), _marked(metafunc, "machine"))
        _device_spec(metafunc.definition)
        group = _group(metafunc.definition)
    except HarnessError as error:
        raise pytest.Collector.CollectError(f"{metafunc.definition.nodeid}: {error}") from error
    # Tests that share a guest have to be on one worker.
    module = metafunc.module.__name__
    metafunc.parametrize(
        "vm_cell",
        [
            pytest.param(
                cell,
                id=str(cell),
                marks=[pytest.mark.xdist_group(f"{module}-{cell}")] if group else [],
            )
            for cell in cells
        ],
        indirect=True,
    )


def _coverage(config: pytest.Config) -> Selection:
    """Return what the run covers. Recipes are read when the first test asks for a guest."""
    if _COVERAGE not in config.stash:
        config.stash[_COVERAGE] = make_selection(*map(config.getoption, _NARROWING))
    return config.stash[_COVERAGE]


def _marked(metafunc: pytest.Metafunc, what: str) -> tuple[str, ...] | None:
    marker = metafunc.definition.get_closest_marker(what)
    return marker.args if marker else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse rows that the table does not have; leave out tests with no kernel or machine left."""
    for item in items:
        for row in _rows(item):
            if row not in capability_titles():
                raise pytest.UsageError(f"{item.nodeid}: there is no capability {row!r}")
    left_out = [item for item in items if _wants_guest(item) and _cell(item) is None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _wants_guest(item: pytest.Item) -> bool:
    return "vm_cell" in getattr(item, "fixturenames", ())


def _rows(item: pytest.Item) -> list[str]:
    return [row for marker in item.iter_markers("capability") for row in marker.args]


# Fixtures.


@pytest.fixture(scope="session")
def provisioner() -> Provisioner:
    """What provides QEMU, kernels and images."""
    return make_provisioner()


@pytest.fixture(scope="session")
def vm_lender(provisioner: Provisioner, pytestconfig: pytest.Config) -> Iterator[VmLender]:
    """The guests of this worker."""
    directory = _results(pytestconfig) / MACHINES
    with VmLender(provisioner, load_machines(), directory) as lender:
        yield lender


@pytest.fixture
def vm_cell(request: pytest.FixtureRequest) -> Cell:
    """The kernel and the machine of this run of the test."""
    cell: Cell = request.param
    return cell


@pytest.fixture
def vm(vm_cell: Cell, vm_lender: VmLender, request: pytest.FixtureRequest) -> Iterator[Vm]:
    """A guest that answers, fresh from the snapshot of its boot. Its kernel log has to stay clean.

    ``@pytest.mark.shared_vm("module")`` keeps one for the tests of a module or a class, and
    ``@pytest.mark.cold_boot("nox2apic")`` boots for real, with words for the kernel.
    """
    node = request.node
    with _lent(vm_lender, vm_cell, node) as vm:
        node.stash[_VM] = vm
        node.stash[_PROVENANCE] = vm.provenance()
        yield vm
        try:
            vm.machine.vitals.check()
            vm.check_kernel_log()
        except HarnessError:
            if _EVIDENCE not in node.stash:
                _keep_evidence(node)
                raise
            # What the test itself failed of is the news; this followed from it.
        finally:
            # From here on the machine cannot be asked any more.
            del node.stash[_VM]


def _lent(lender: VmLender, cell: Cell, node: pytest.Item) -> contextlib.AbstractContextManager[Vm]:
    if boot := node.get_closest_marker("cold_boot"):
        return lender.booted_vm(cell, tuple(boot.args))
    if group := _group(node):
        return contextlib.nullcontext(lender.shared_vm(cell, group))
    return lender.fresh_vm(cell)


def _group(node: pytest.Item) -> str | None:
    """Return the name of the group of tests that a test shares its guest with, if any."""
    if (marker := node.get_closest_marker("shared_vm")) is None:
        return None
    scope = marker.args[0] if marker.args else "module"
    kinds: dict[str, type[pytest.Collector]] = {"class": pytest.Class, "module": pytest.Module}
    if scope not in kinds or (parent := node.getparent(kinds[scope])) is None:
        raise ConfigError(f"shared_vm({scope!r}): it is shared by a class or by a module")
    return parent.nodeid


@pytest.fixture
def guest(vm: Vm) -> Control:
    """The control tool in the guest: ``alloc``, ``request``, ``move``, ..."""
    return vm.control


@pytest.fixture
def ssh(vm: Vm) -> SshSession:
    """Commands in the guest."""
    return vm.ssh


@pytest.fixture
def qmp(vm: Vm) -> QmpSession:
    """QEMU's monitor."""
    return vm.machine.qmp


@pytest.fixture
def observer(vm: Vm) -> Observer:
    """The host's side: the remapping unit and its table, trapped accesses, guest memory."""
    return vm.observer


@pytest.fixture
def ims_device(vm: Vm, request: pytest.FixtureRequest) -> Iterator[PluggedFunction]:
    """The IMS function, freshly plugged in and bound to its driver.

    ``@pytest.mark.device(ims_mapped=True, msix_vectors=64)`` chooses what it is made of.
    """
    with vm.plugged(_device_spec(request.node)) as plugged:
        request.node.stash[_DEVICE] = plugged
        yield plugged


def _device_spec(node: pytest.Item) -> ImsFunctionSpec:
    marker = node.get_closest_marker("device")
    try:
        return ImsFunctionSpec(**(marker.kwargs if marker else {}))
    except TypeError as error:
        fields = ", ".join(field.name for field in dataclasses.fields(ImsFunctionSpec))
        raise ConfigError(f"device marker: {error}", hint=f"fields: {fields}") from error


# Verdicts, evidence and the record.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say of each phase what the test's verdict is so far, and keep the evidence of a failure."""
    report = yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, MissingRequirement) and not item.config.getoption("require"):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, f"missing requirement: {error}")
    verdict = graver(_verdict(item, report, error), item.stash.get(_VERDICT, Verdict.PASS))
    item.stash[_VERDICT] = verdict
    if report.failed:
        if _EVIDENCE not in item.stash:
            _keep_evidence(item)
        said = {"verdict": verdict.value} | item.stash[_EVIDENCE]
        text = "\n".join(f"{name + ':':<10} {value}" for name, value in said.items())
        report.sections.append(("imsh", text))
    report.user_properties += [
        ("verdict", verdict.value),
        ("rows", " ".join(_rows(item))),
        *_provenance(item).items(),
        *item.stash.get(_EVIDENCE, {}).items(),
    ]
    return report


def _verdict(item: pytest.Item, report: pytest.TestReport, error: BaseException | None) -> Verdict:
    if report.passed:
        return Verdict.PASS
    if report.skipped and not hasattr(report, "wasxfail"):
        return Verdict.MISSING_REQUIREMENT
    if error is None:  # it passed, and was marked as one that fails
        return Verdict.HARNESS_FAILURE
    return verdict_of(error, about_guest=_cell(item) is not None)


def _cell(item: pytest.Item) -> Cell | None:
    callspec = getattr(item, "callspec", None)
    cell = callspec.params.get("vm_cell") if callspec else None
    return cell if isinstance(cell, Cell) else None


def _provenance(item: pytest.Item) -> dict[str, str]:
    """Return what is known of the machine: all about it, or what it was to be."""
    if known := item.stash.get(_PROVENANCE, None):
        return known
    cell = _cell(item)
    return {"kernel": cell.kernel, "machine": cell.machine} if cell else {}


def _keep_evidence(item: pytest.Item) -> None:
    """Copy what the machine left, and note where it is and what runs the test again."""
    name = plain_nodeid(item.nodeid)
    evidence: dict[str, str] = {}
    item.stash[_EVIDENCE] = evidence
    if machine := item.stash.get(_VM, None):
        if plugged := item.stash.get(_DEVICE, None):
            plugged.dump()
        machine.dump()
        directory = re.sub(r"[^\w.-]+", "_", name.rpartition("/")[2])
        target = _results(item.config) / FAILED / directory
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(machine.workspace.directory, target)
        evidence["evidence"] = str(target)
    matrix = item.config.getoption("matrix")
    words = ["pytest", *(["--matrix", matrix] if matrix else []), name]
    own = {name: os.environ[name] for name in (RECIPES_VARIABLE,) if name in os.environ}
    evidence["reproduce"] = shell_line(words, own)
