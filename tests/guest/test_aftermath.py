"""What is looked at after every test, by itself: each check is seen to fail, in real guests."""

from __future__ import annotations

import pytest

from harness.errors import Verdict
from harness.report.outcome import Outcome
from tests.guest.inner_run import InnerRun, run_tests

# One worker runs the failing tests, once.
pytestmark = pytest.mark.xdist_group("aftermath")

LEAVING = """
import pytest
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store
from harness.spec.msi import RemappableMessage
from harness.spec.vtd import ENTRY_SIZE
from harness.testbed.observer import IOMMU_BASE
from tests.guest.support import blocked, deliver, invalidate, store_message

INVALIDATION_QUEUE_TAIL = 0x88
FREE = 0x8000
"An IRTE that no kernel has come to."


def test_sound(ims_device):
    ims_device.set_up(Store.IMS, 4)
    deliver(ims_device, Store.IMS, 0, 3)


# A function.


def test_outstanding(ims_device):
    ims_device.set_up(Store.IMS, 2)
    ims_device.control.mask(Store.IMS, 1)
    ims_device.model.raise_interrupt(Store.IMS, 1)


@pytest.mark.leaves("events")
def test_outstanding_on_purpose(ims_device):
    test_outstanding(ims_device)
    ims_device.control.unmask(Store.IMS, 1)


def test_on_the_wrong_handler(vm, ims_device):
    ims_device.set_up(Store.IMS, 2)
    swap_irtes(ims_device)
    invalidate(vm)
    ims_device.model.raise_interrupt(Store.IMS, 0)


def test_audit(vm, ims_device):
    ims_device.set_up(Store.IMS, 2)
    swap_irtes(ims_device)
    invalidate(vm)


@pytest.mark.leaves("audit")
def test_stale(ims_device):
    ims_device.set_up(Store.IMS, 2)
    swap_irtes(ims_device)
    ims_device.control.mask(Store.IMS)  # the end of an operation of the guest
    ims_device.control.unmask(Store.IMS)


@pytest.mark.leaves("audit", "stale")
def test_entry_left(vm, ims_device):
    write_entry(ims_device, FREE, ims_device_entry(ims_device))


@pytest.mark.leaves("audit", "stale", "entries")
def test_entry_left_on_purpose(vm, ims_device):
    test_entry_left(vm, ims_device)


def ims_device_entry(plugged):
    plugged.set_up(Store.IMS, 1)
    return plugged.irte(plugged.message(Store.IMS, 0))


def write_entry(plugged, index, entry):
    plugged.machine.memory.write(plugged.table().address + index * ENTRY_SIZE, entry.pack())


def swap_irtes(plugged):
    first, second = (plugged.message(Store.IMS, n).decode().index for n in range(2))
    one, other = map(plugged.table().read_entry, (first, second))
    write_entry(plugged, first, other)
    write_entry(plugged, second, one)


# The guest as a whole.


@pytest.mark.cold_boot("iomem=relaxed")
def test_queue_error(vm):
    vm.ssh.run(f"devmem {IOMMU_BASE + INVALIDATION_QUEUE_TAIL:#x} 64 0x7fff0")


# One that is shared is replaced: what follows is right again.


@pytest.mark.shared_vm("class")
class TestShared:
    def test_log(self, vm):
        vm.ssh.run("echo 'WARNING: CPU: 0 PID: 1 at kernel/irq/chip.c:1' >/dev/kmsg")

    def test_fault(self, vm):
        with vm.ims_function() as function:
            function.set_up(Store.IMS, 2)
            own = function.message(Store.IMS, 0)
            store_message(function, 0, RemappableMessage(FREE).message())
            blocked(function, 0)
            store_message(function, 0, own)

    def test_own_failure(self, vm):
        vm.ssh.run("touch /tmp/left-by-a-test-that-failed")
        assert False

    def test_sound_after_all(self, vm):
        vm.ssh.run("test ! -e /tmp/left-by-a-test-that-failed && touch /tmp/left")

    def test_the_same_guest(self, vm):
        vm.ssh.run("test -e /tmp/left")
"""


@pytest.fixture(scope="module")
def leaving_run(tmp_path_factory: pytest.TempPathFactory) -> InnerRun:
    """Run tests that pass and leave something behind."""
    return run_tests(tmp_path_factory.mktemp("leaving"), LEAVING)


@pytest.fixture
def outcomes(leaving_run: InnerRun) -> dict[str, Outcome]:
    """Return test name to outcome."""
    return leaving_run.outcomes()


@pytest.mark.parametrize(
    ("test", "found"),
    [
        ("test_outstanding", "outstanding: event 1 on IMS 1, pending"),
        ("test_on_the_wrong_handler", "outstanding: event 1 on IMS 0, sent"),
        ("test_on_the_wrong_handler", "doubled: IMS 1"),
        ("test_audit", "wrong vector"),
        ("test_stale", "remapping entries might still be used as they were"),
        ("test_entry_left", "1 IRTEs of 0000:01:00.0 are left although its driver is unbound"),
        ("TestShared::test_log", "warning (line "),
        ("TestShared::test_fault", "recorded by the IOMMU: fault 0x22"),
        ("test_queue_error", "invalidation queue error (IQE)"),
    ],
)
def test_what_a_test_leaves_behind_is_the_kernels_failure(
    leaving_run: InnerRun, outcomes: dict[str, Outcome], test: str, found: str
) -> None:
    assert outcomes[test].verdict is Verdict.KERNEL_FAILURE
    title = test.replace("::", ".")
    _, _, report = leaving_run.printed.partition(f" ERROR at teardown of {title}[")
    assert found in report.partition(" ERROR at ")[0]


@pytest.mark.parametrize(
    "test",
    [
        "test_sound",
        "test_outstanding_on_purpose",
        "test_entry_left_on_purpose",
        "TestShared::test_sound_after_all",
        "TestShared::test_the_same_guest",
    ],
)
def test_what_is_sound_passes_and_what_is_left_on_purpose(
    outcomes: dict[str, Outcome], test: str
) -> None:
    assert outcomes[test].verdict is Verdict.PASS


def test_a_failed_test_is_reported_once(
    outcomes: dict[str, Outcome], leaving_run: InnerRun
) -> None:
    assert outcomes["TestShared::test_own_failure"].verdict is Verdict.KERNEL_FAILURE
    assert "ERROR at teardown of TestShared.test_own_failure" not in leaving_run.printed
