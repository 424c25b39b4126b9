"""The fixtures: guests, sessions into them, what is plugged in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from harness.build.provision import Provisioner
from harness.config.matrix import Cell
from harness.config.recipes import load_machines
from harness.errors import HarnessError
from harness.guest.control import Control
from harness.guest.ssh import SshSession
from harness.pytest_plugin.cells import check_cpus_wanted, device_spec, group_of, leftovers
from harness.pytest_plugin.faults import fault_sown
from harness.pytest_plugin.options import provisioner_of, run_directory
from harness.pytest_plugin.verdicts import DEVICE, EVIDENCE, PROVENANCE, VERDICT, VM, keep_evidence
from harness.qemu.qmp import QmpSession
from harness.report.run_store import MACHINES
from harness.report.verdict import graver
from harness.testbed.aftermath import Leftover
from harness.testbed.lender import VmLender
from harness.testbed.observer import Observer
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm


@pytest.fixture(scope="session")
def provisioner(pytestconfig: pytest.Config) -> Provisioner:
    """What provides QEMU, kernels and images."""
    return provisioner_of(pytestconfig)


@pytest.fixture(scope="session")
def vm_lender(provisioner: Provisioner, pytestconfig: pytest.Config) -> Iterator[VmLender]:
    """The guests of this worker."""
    directory = run_directory(pytestconfig) / MACHINES
    with VmLender(provisioner, load_machines(), directory) as lender:
        yield lender


@pytest.fixture
def vm_cell(request: pytest.FixtureRequest) -> Cell:
    """The kernel and the machine of this run of the test."""
    cell: Cell = request.param
    return cell


@pytest.fixture
def vm(vm_cell: Cell, vm_lender: VmLender, request: pytest.FixtureRequest) -> Iterator[Vm]:
    """A guest that answers, fresh from the snapshot of its boot.

    After the test its kernel log is clean, and the IOMMU has recorded no fault. A shared guest that
    did not stay so, or of a test that failed, is not lent again.

    ``@pytest.mark.shared_vm("module")`` keeps one for the tests of a module or a class, and
    ``@pytest.mark.cold_boot("nox2apic")`` boots for real, with words for the kernel.
    """
    node = request.node
    check_cpus_wanted(node, vm_lender.machine(vm_cell))
    with _lent(vm_lender, vm_cell, node) as vm, fault_sown(node, vm):
        node.stash[VM] = vm
        node.stash[PROVENANCE] = vm.provenance()
        vm.leaves = leftovers(node)
        yield vm
        try:
            vm.machine.vitals.check()
            vm.check_kernel_log()
        except HarnessError as error:
            if EVIDENCE not in node.stash:
                keep_evidence(node)
                raise
            # What the test itself failed of is the news, and this followed from it; but if this
            # says more, as QEMU's end does of a guest that did not answer, it was the other way.
            if graver(error.verdict, node.stash[VERDICT]) is not node.stash[VERDICT]:
                raise
        finally:
            # From here on the machine cannot be asked any more.
            del node.stash[VM]
            if _failed(node) or vm.has_faults:
                vm_lender.retire(vm)


def _lent(lender: VmLender, cell: Cell, node: pytest.Item) -> contextlib.AbstractContextManager[Vm]:
    if boot := node.get_closest_marker("cold_boot"):
        return lender.booted_vm(cell, tuple(boot.args))
    if group := group_of(node):
        return contextlib.nullcontext(lender.shared_vm(cell, group))
    return lender.fresh_vm(cell)


@pytest.fixture
def guest(vm: Vm) -> Control:
    """The control tool in the guest: ``irqs``, ``cpus``, ``kernel_log``, ..."""
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

    ``@pytest.mark.device(ims_mapped=True, msix_vectors=64)`` chooses what it is made of. After the
    test nothing may be left of it, but for what ``@pytest.mark.leaves("events")`` names.
    """
    node = request.node
    try:
        with vm.ims_function(device_spec(node)) as plugged:
            node.stash[DEVICE] = plugged
            yield plugged
            if _failed(node):  # what is left follows from that
                vm.leaves = frozenset(Leftover)
    except HarnessError:
        if EVIDENCE not in node.stash:
            keep_evidence(node)
        raise


def _failed(node: pytest.Item) -> bool:
    """Whether something was wrong with a test so far."""
    return EVIDENCE in node.stash
