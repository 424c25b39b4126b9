"""A fault is seeded into a running guest, seen by the tests that should, and taken back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.devices.ledger import Fate
from harness.errors import MissingRequirement
from harness.faults.change import skip
from harness.faults.place import Place, call_of, instruction
from harness.faults.seed import Patch, Replacement
from harness.faults.table import choose_fault
from harness.host.deadline import Deadline, wait_until
from harness.host.resources import harness_version
from harness.pci.store import PendingBits
from harness.spec.interrupt import Store
from harness.spec.vtd import Entry
from harness.testbed.plugged import PluggedFunction
from harness.testbed.supplies import DEFAULT_KERNEL
from harness.testbed.vm import Vm
from tests.guest.support import fence, give_back


@pytest.mark.machine("caching")
def test_a_place_in_the_kernel_is_found_by_name_changed_and_put_back(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    def irtes() -> list[Entry]:
        return [ims_device.irte(ims_device.message(Store.IMS, index)) for index in (0, 1)]

    ims_device.set_up(Store.IMS, 2)
    for index in (0, 1):
        ims_device.move(Store.IMS, cpu=0, index=index)  # wherever the kernel had put it
    before = irtes()
    with choose_fault("moved-irte-keeps-old-route").seed.sown(vm) as where:
        assert "intel_ir_set_affinity" in where
        # Not put off, as Linux does until the vector of the move before is cleaned up.
        wait_until(
            lambda: ims_device.control.move(Store.IMS, cpu=1, index=0)[0].cpu == 1,
            Deadline(5, "a move"),
        )
        assert irtes() == before
    ims_device.move(Store.IMS, cpu=1, index=1)
    assert irtes()[0] == before[0]
    assert irtes()[1] != before[1]
    # It can not be moved back: no interrupt will ever come to tell Linux that the move is over.
    give_back(ims_device, Store.IMS, count=2)


@pytest.mark.kernel(DEFAULT_KERNEL)
@pytest.mark.machine("caching")
def test_a_place_in_the_module_is_found_too(vm: Vm, ims_device: PluggedFunction) -> None:
    guest, model = ims_device.control, ims_device.model
    ims_device.set_up(Store.IMS, 2)
    with choose_fault("ims-mask-is-not-written").seed.sown(vm):
        guest.mask(Store.IMS)
        assert model.raise_interrupt(Store.IMS, 0).fate is Fate.SENT
        fence(ims_device, Store.IMS, 1)
        guest.unmask(Store.IMS)
    guest.mask(Store.IMS)
    held = model.raise_interrupt(Store.IMS, 0)
    assert held.fate is Fate.PENDING
    guest.unmask(Store.IMS)
    model.ledger.wait_answered(held, Deadline(5, "the entry that was held"))


@pytest.mark.kernel(DEFAULT_KERNEL)
@pytest.mark.machine("caching")
@pytest.mark.shared_vm("module")
@pytest.mark.parametrize(
    "place",
    [
        call_of("qi_submit_sync", within="no_such_function"),
        call_of("no_such_function", within="modify_irte"),
        instruction("no such instruction", within="modify_irte"),
    ],
    ids=["function", "callee", "instruction"],
)
def test_a_place_that_is_not_there_changes_nothing_and_is_a_missing_requirement(
    vm: Vm, place: Place
) -> None:
    seed = Patch(place, skip)
    with pytest.raises(MissingRequirement, match="no place for the fault"), seed.sown(vm):
        pass
    vm.control.ping()


@pytest.mark.kernel(DEFAULT_KERNEL)
@pytest.mark.machine("caching")
@pytest.mark.shared_vm("module")
def test_a_method_of_a_model_is_replaced_and_put_back(vm: Vm) -> None:
    before = PendingBits.set_pending
    with Replacement(PendingBits, "set_pending", lambda _: lambda *_: None).sown(vm):
        bits = PendingBits()
        bits.set_pending(3, True)
        assert not bits.pending
    assert PendingBits.set_pending is before


TESTS = """
import pytest
from harness.devices.ledger import Fate
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store

@pytest.mark.capability("A4")
def test_that_looks(ims_device):
    ims_device.set_up(Store.IMS, 1)
    ims_device.control.mask(Store.IMS)
    event = ims_device.model.raise_interrupt(Store.IMS, 0)
    assert event.fate is Fate.PENDING
    ims_device.control.unmask(Store.IMS)
    ims_device.model.ledger.wait_answered(event, Deadline(5, "the entry that was held"))
"""
BLIND = """
import pytest

@pytest.mark.capability("A4")
def test_that_does_not_look(ims_device):
    ims_device.check_audit()
"""


def campaign(directory: Path, tests: str, *options: str) -> tuple[int, dict[str, object]]:
    """Seed a fault and run tests of our own; return the exit status and what is said of it."""
    (directory / "test_ims.py").write_text(tests)
    words = ["faults", "--only", "ims-mask-is-not-written", "--kernel", DEFAULT_KERNEL, "--json"]
    words += ["--tests", str(directory), "--results", str(directory / "runs"), *options]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *words], capture_output=True, text=True, timeout=250
    )
    assert done.stdout, done.stderr
    (finding,) = json.loads(done.stdout)["findings"]
    return done.returncode, finding


def test_a_fault_that_a_test_of_its_row_sees_is_caught(tmp_path: Path) -> None:
    status, finding = campaign(tmp_path, TESTS)
    assert (status, finding["fate"], finding["rows"]) == (0, "caught", ["A4"])
    assert "imstest_ims_mask" in str(finding["where"])

    status, again = campaign(tmp_path, TESTS, "--resume")
    assert (status, again["fate"]) == (0, "caught")
    # A checkout that was changed is never taken for the same.
    assert (again == finding) is not harness_version().endswith("-dirty)")


def test_a_fault_that_no_test_looks_for_is_missed(tmp_path: Path) -> None:
    status, finding = campaign(tmp_path, BLIND)
    assert (status, finding["fate"]) == (2, "missed")
