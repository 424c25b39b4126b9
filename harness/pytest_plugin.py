"""The pytest plugin: fixtures that boot guests, markers, options, and the record of a run.

    def test_a_moved_interrupt_arrives_on_its_new_cpu(ims_device): ...

A test that asks for ``vm``, or for a fixture on top of it, runs once on every kernel and machine
that its markers and the command line leave.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from harness.build.provision import Provisioner
from harness.config.matrix import Cell
from harness.config.recipes import load_machines
from harness.devices.device_spec import DeviceSpec
from harness.errors import HarnessError, MissingRequirement, Verdict
from harness.guest.control import Control
from harness.guest.ssh import SshSession
from harness.host.slowdown import stretch_timeouts
from harness.host.workspace import directory_lock
from harness.qemu.qmp import QmpSession
from harness.report.capabilities import capability_titles
from harness.report.outcome import RESULTS_DIRECTORY, Outcome, write_outcomes
from harness.report.verdict import graver, verdict_of
from harness.testbed.coverage import DEFAULT_MATRIX, Coverage, make_coverage
from harness.testbed.hypervisor import Hypervisor
from harness.testbed.lender import VmLender
from harness.testbed.plugged import PluggedFunction
from harness.testbed.supplies import make_provisioner
from harness.testbed.vm import Vm

_MARKERS = (
    "capability(*rows): rows of the capability table that the test proves",
    "kernel(*names): guest kernels that the test is for (default: the matrix's)",
    "machine(*names): machines that the test is for (default: the matrix's)",
    "cold_boot(*words): boot for real instead of from a snapshot, with words for the kernel",
    "shared_vm(scope): keep one guest for the tests of a 'class' or 'module'",
    "device(**spec): fields of harness.devices.device_spec.DeviceSpec for ims_device",
)
_NARROWING: Final = ("matrix", "kernel", "machine")
"""Options that say what a run covers: the arguments of :func:`make_coverage`."""
MACHINES: Final = "machines"
"""Below the results: what each machine leaves while it runs."""
FAILED: Final = "failed"
"""Below the results: the evidence of each failed test."""

_VM: Final = pytest.StashKey[Vm]()
_DEVICE: Final = pytest.StashKey[PluggedFunction]()
_PROVENANCE: Final = pytest.StashKey[dict[str, str]]()
_HAS_FAILED: Final = pytest.StashKey[bool]()
_RECORD: Final = pytest.StashKey["Record"]()
_COVERAGE: Final = pytest.StashKey[Coverage]()


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
        record = Record(config.rootpath / config.getoption("results"), count)
        config.stash[_RECORD] = record
        config.pluginmanager.register(record)


# Which kernels and machines.


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that has a guest on every kernel and machine that are left."""
    if "vm_cell" not in metafunc.fixturenames:
        return
    try:
        coverage = _coverage(metafunc.config)
        cells = coverage.cells(_marked(metafunc, "kernel"), _marked(metafunc, "machine"))
    except HarnessError as error:
        raise pytest.Collector.CollectError(f"{metafunc.definition.nodeid}: {error}") from error
    # Tests that share a guest have to be on one worker.
    module = metafunc.module.__name__
    shared = metafunc.definition.get_closest_marker("shared_vm") is not None
    metafunc.parametrize(
        "vm_cell",
        [
            pytest.param(
                cell,
                id=str(cell),
                marks=[pytest.mark.xdist_group(f"{module}-{cell}")] if shared else [],
            )
            for cell in cells
        ],
        indirect=True,
    )


def _coverage(config: pytest.Config) -> Coverage:
    """Return what the run covers. Recipes are read when the first test asks for a guest."""
    if _COVERAGE not in config.stash:
        config.stash[_COVERAGE] = make_coverage(*map(config.getoption, _NARROWING))
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
    directory = pytestconfig.rootpath / pytestconfig.getoption("results") / MACHINES
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
        except HarnessError as error:
            if _HAS_FAILED not in node.stash:
                error.add_note(_keep_evidence(node, error.verdict))
                raise
            # What the test itself failed of is the news; this followed from it.
        finally:
            # From here on the machine cannot be asked any more.
            del node.stash[_VM]


def _lent(lender: VmLender, cell: Cell, node: pytest.Item) -> contextlib.AbstractContextManager[Vm]:
    if boot := node.get_closest_marker("cold_boot"):
        return lender.booted_vm(cell, tuple(boot.args))
    if shared := node.get_closest_marker("shared_vm"):
        return contextlib.nullcontext(lender.shared_vm(cell, _group(node, *shared.args)))
    return lender.fresh_vm(cell)


def _group(node: pytest.Item, scope: str = "module") -> str:
    """Return the name of the group of tests that share a guest."""
    kinds: dict[str, type[pytest.Collector]] = {"class": pytest.Class, "module": pytest.Module}
    if scope not in kinds or (parent := node.getparent(kinds[scope])) is None:
        raise pytest.UsageError(f"{node.nodeid}: shared_vm({scope!r}): class or module")
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
def hypervisor(vm: Vm) -> Hypervisor:
    """The host's side: the remapping unit and its table, trapped accesses, guest memory."""
    return vm.hypervisor


@pytest.fixture
def ims_device(vm: Vm, request: pytest.FixtureRequest) -> Iterator[PluggedFunction]:
    """The IMS test function, freshly plugged in and bound to its driver.

    ``@pytest.mark.device(ims_mapped=True, msix_vectors=64)`` chooses what it is made of.
    """
    marker = request.node.get_closest_marker("device")
    spec = DeviceSpec(**(marker.kwargs if marker else {}))
    with vm.plugged(spec) as plugged:
        request.node.stash[_DEVICE] = plugged
        yield plugged


# Verdicts, evidence and the record.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give every phase of a test its verdict, and keep the evidence of a failure."""
    report = yield
    verdict = Verdict.PASS
    if call.excinfo is not None:
        error = call.excinfo.value
        if isinstance(error, MissingRequirement) and not item.config.getoption("require"):
            report.outcome = "skipped"
            report.longrepr = (str(item.path), 0, f"missing requirement: {error}")
        if report.skipped:
            verdict = Verdict.MISSING_REQUIREMENT
        elif report.failed:
            verdict = verdict_of(error, about_guest=_cell(item) is not None)
            item.stash[_HAS_FAILED] = True
            report.sections.append(("imsh", _keep_evidence(item, verdict)))
    report.user_properties = [
        ("verdict", verdict.value),
        ("rows", " ".join(_rows(item))),
        *(_provenance(item).items()),
    ]
    return report


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


def _keep_evidence(item: pytest.Item, verdict: Verdict) -> str:
    """Copy what the machine left, and return what to print about it."""
    lines = [f"verdict:   {verdict.value}"]
    if machine := item.stash.get(_VM, None):
        if plugged := item.stash.get(_DEVICE, None):
            plugged.dump()
        machine.dump()
        name = re.sub(r"[^\w.-]+", "_", item.nodeid.rpartition("/")[2])
        target = item.config.rootpath / item.config.getoption("results") / FAILED / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(machine.workspace.directory, target)
        lines.append(f"evidence:  {target}")
    lines.append(f"reproduce: pytest {shlex.quote(item.nodeid)}")
    return "\n".join(lines)


class Record:
    """Collects the reports of all workers, and writes the record of the run."""

    def __init__(self, directory: Path, workers: int):
        self._directory = directory
        self._workers = workers
        self._stretched = 1.0
        self._outcomes: dict[str, Outcome] = {}
        self._held = contextlib.ExitStack()

    def pytest_sessionstart(self) -> None:
        """Take the results directory for this run, and empty it of the last one's evidence."""
        try:
            self._held.enter_context(directory_lock(self._directory))
        except HarnessError as error:
            pytest.exit(str(error), returncode=error.verdict.exit_status)
        self._stretched = stretch_timeouts(self._workers)
        for name in (MACHINES, FAILED):
            shutil.rmtree(self._directory / name, ignore_errors=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Join the phases of a test."""
        properties: dict[str, Any] = dict(report.user_properties)
        verdict = Verdict(properties.pop("verdict", Verdict.HARNESS_FAILURE))
        rows = tuple(properties.pop("rows", "").split())
        name = report.nodeid.partition("@")[0]  # xdist's group
        known = self._outcomes.get(name)
        message = ""
        if verdict is not Verdict.PASS and report.longrepr is not None:
            message = str(report.longrepr).strip().rpartition("\n")[2]
        self._outcomes[name] = Outcome(
            test=name,
            verdict=graver(verdict, known.verdict) if known else verdict,
            rows=rows,
            kernel=properties.get("kernel", known.kernel if known else ""),
            machine=properties.get("machine", known.machine if known else ""),
            seconds=report.duration + (known.seconds if known else 0.0),
            message=message or (known.message if known else ""),
            provenance=properties or (known.provenance if known else {}),
        )

    def pytest_sessionfinish(self) -> None:
        """Write the record."""
        if self._outcomes:
            write_outcomes(self._directory, self._outcomes.values())
        self._held.close()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say how many tests came to each verdict."""
        counts = dict.fromkeys(Verdict, 0)
        for outcome in self._outcomes.values():
            counts[outcome.verdict] += 1
        said = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items() if count)
        if said:
            terminalreporter.write_line(
                f"imsh: {said}; record in {self._directory}; "
                f"time-outs stretched by {self._stretched:.1f}"
            )
