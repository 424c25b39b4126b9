"""Verdicts never mix, and a failure leaves what explains it: seen by failing on purpose."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.errors import Verdict
from harness.report.outcome import Outcome
from tests.guest.inner_run import InnerRun, run_tests

# One worker runs the failing tests, once.
pytestmark = pytest.mark.xdist_group("evidence")

FAILING = """
import os, signal
import pytest
from harness.errors import Verdict
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store


def test_kernel(ims_device):
    ims_device.set_up(Store.IMS, 2)
    ims_device.model.raise_and_wait(Store.IMS, 0, Deadline(5, "an answer"))
    assert ims_device.control.interrupt(Store.IMS, 0).counts == (7, 7)


def test_kernel_lost_interrupt(ims_device):
    ims_device.set_up(Store.IMS, 2)
    ims_device.control.mask(Store.IMS, 0)
    ims_device.model.raise_and_wait(Store.IMS, 0, Deadline(0.2, "an answer"))


def test_harness(ims_device):
    raise RuntimeError("a bug of ours")


def test_qemu(vm):
    os.kill(vm.machine.pid, signal.SIGKILL)
    vm.ssh.run("sleep 10")


def test_panic(vm):
    vm.ssh.run("echo c >/proc/sysrq-trigger", check=False)
    vm.ssh.run("sleep 10")


def test_time_out(vm):
    vm.ssh.run("sleep 10", deadline=Deadline(0.5, "a sleeper"))


def test_passes(vm):
    assert vm.ssh.run("uname -s").stdout == "Linux\\n"
"""


@pytest.fixture(scope="module")
def failing_run(tmp_path_factory: pytest.TempPathFactory) -> InnerRun:
    """Run tests that fail in every way."""
    return run_tests(tmp_path_factory.mktemp("failing"), FAILING)


@pytest.fixture
def outcomes(failing_run: InnerRun) -> dict[str, Outcome]:
    """Return test name to outcome."""
    return failing_run.outcomes()


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        ("test_kernel", Verdict.KERNEL_FAILURE),
        ("test_kernel_lost_interrupt", Verdict.KERNEL_FAILURE),
        ("test_harness", Verdict.HARNESS_FAILURE),
        ("test_qemu", Verdict.HARNESS_FAILURE),
        ("test_panic", Verdict.KERNEL_FAILURE),
        ("test_time_out", Verdict.TIME_OUT),
        ("test_passes", Verdict.PASS),
    ],
)
def test_each_way_to_fail_has_its_own_verdict(
    outcomes: dict[str, Outcome], test: str, verdict: Verdict
) -> None:
    assert outcomes[test].verdict is verdict
    assert outcomes[test].kernel == "debian-6.12"


def test_a_failure_leaves_its_evidence_and_a_line_to_paste(
    failing_run: InnerRun,
) -> None:
    (evidence,) = failing_run.results.glob("runs/*/failed/*test_kernel_debian*")
    kept = {path.name for path in evidence.iterdir()}
    assert kept >= {
        "boot.log",
        "console.log",
        "guest-dmesg.txt",
        "timeline.txt",
        "irtes.txt",
        "stores-0.txt",
        "events-0.txt",
        "proc-interrupts.txt",
        "qemu.argv",
        "reproduce.sh",
    }
    assert "Linux version" in (evidence / "boot.log").read_text(errors="replace")
    assert "IMS" in (evidence / "stores-0.txt").read_text()
    assert "answered by CPU" in (evidence / "events-0.txt").read_text()
    assert_is_merged((evidence / "timeline.txt").read_text())
    assert (
        "reproduce: pytest 'test_failing.py::test_kernel[debian-6.12-remapping-only]'"
        in failing_run.printed
    )


def assert_is_merged(timeline: str) -> None:
    """Assert that the parties of one interrupt are in one record, in the order of time."""
    lines = [line.split(maxsplit=3)[2:] for line in timeline.splitlines()]
    stages = [
        ("monitor", '-> {"execute":"device_add"'),
        ("function0", "<- 0000 VERSION"),
        ("function0", "event 1 on IMS 0 raised"),
        ("function0", "-> 0000 DMA_WRITE"),
        ("function0", "event 1 on IMS 0 answered"),
        ("guest", "its clock showed"),
    ]
    found = [
        next((at for at, line in enumerate(lines) if line[0] == who and line[1].startswith(what)))
        for who, what in stages
    ]
    assert found == sorted(found)


def test_the_junit_report_has_the_verdict_and_leads_to_the_evidence(
    failing_run: InnerRun, outcomes: dict[str, Outcome]
) -> None:
    cases = list(ET.parse(failing_run.results / "junit.xml").getroot().iter("testcase"))
    assert len(cases) == len(outcomes)
    for case in cases:
        known = {item.get("name"): item.get("value") or "" for item in case.iter("property")}
        test = (case.get("name") or "").partition("[")[0]
        assert known["verdict"] == outcomes[test].verdict
        if test == "test_passes":
            assert "evidence" not in known
        else:
            assert (Path(known["evidence"]) / "console.log").exists()
            assert known["reproduce"].startswith(f"pytest 'test_failing.py::{test}[")


def test_a_panic_is_reported_as_a_panic_with_its_console(failing_run: InnerRun) -> None:
    assert "sysrq triggered crash" in failing_run.printed
    assert "GuestPanic" in failing_run.printed


# The command's exit status.


def test_a_guest_that_panics_makes_the_command_end_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--append", "rdinit=/nothing", "--results", str(tmp_path)]
    assert main(words) == 1
    captured = capsys.readouterr()
    assert "verdict: kernel failure: panic in the guest" in captured.out
    assert "reproduce: imsh run" in captured.err
    (evidence,) = tmp_path.iterdir()
    assert "Kernel panic" in (evidence / "console.log").read_text(errors="replace")


def test_a_kernel_without_the_remapping_of_its_machine_fails_of_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--append", "intremap=off", "--results", str(tmp_path)]) == 1
    told = "kernel failure: the kernel as configured has not enabled the interrupt remapping"
    assert told in capsys.readouterr().out


def test_a_kernel_with_one_cpu_as_asked_for_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--append", "maxcpus=1", "--results", str(tmp_path)]) == 0
    assert "there is no other to move to" in capsys.readouterr().out


def test_a_guest_that_refuses_our_module_says_so_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--append", "module.sig_enforce=1", "--results", str(tmp_path)]
    assert main(words) == 1
    assert "kernel failure: the guest's kernel has not loaded the module" in capsys.readouterr().out


def test_a_qemu_that_is_none_is_a_missing_requirement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMSH_QEMU", "/bin/true")
    assert main(["run", "--results", str(tmp_path)]) == 3


def test_a_name_that_nothing_has_is_our_users_mistake(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "--machine", "cachign"]) == 64
    assert "did you mean caching?" in capsys.readouterr().err


def test_a_machine_without_remapping_is_refused_before_anything_boots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--machine", "no-iommu", "--results", str(tmp_path)]) == 64
    assert "does not remap interrupts" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
