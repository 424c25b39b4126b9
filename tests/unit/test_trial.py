"""A trial: tests run on a kernel by pytest in a process of its own, and what they said."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from harness.build.kernel import KernelRecipe, TreeSource
from harness.build.roots import RootRecipe
from harness.build.tree import TreeState
from harness.errors import HarnessError, MissingRequirement, Verdict
from harness.host.deadline import Deadline, wait_until
from harness.host.process import running
from harness.testbed.supplies import DEFAULT_KERNEL
from harness.testbed.trees import STATES_VARIABLE, read_states
from harness.validate.trial import Subject, kept_outcomes, run_tests, running_tests

CHECKOUT = Path(__file__).parents[2]
STOCK = Subject(
    recipe=KernelRecipe(DEFAULT_KERNEL, "stock", root=RootRecipe(("suite",), ("linux",)))
)


@pytest.fixture(autouse=True)
def outside_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # A worker's own environment would make the inner pytest believe that it is one, too.
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        monkeypatch.delenv(name)


def deadline() -> Deadline:
    return Deadline(60, "the inner tests")


def written(tmp_path: Path, text: str) -> str:
    file = tmp_path / "test_inner.py"
    file.write_text(text)
    return str(file)


def test_what_the_tests_said_comes_back_and_is_kept(tmp_path: Path) -> None:
    text = "def test_well(): pass\n\ndef test_ill(): assert 1 == 2\n"
    said = run_tests(STOCK, [written(tmp_path, text)], tmp_path / "trial", deadline())
    assert {item.function.partition("::")[2]: item.verdict for item in said} == {
        "test_well": Verdict.PASS,
        "test_ill": Verdict.HARNESS_FAILURE,
    }
    assert kept_outcomes(tmp_path / "trial") == said


def test_a_run_that_has_no_test_says_nothing(tmp_path: Path) -> None:
    file = written(tmp_path, "def test_well(): pass\n")
    assert run_tests(STOCK, [file, "-k", "nothing"], tmp_path / "trial", deadline()) == ()


def test_a_run_that_does_not_come_to_its_end_is_an_error_with_its_log(tmp_path: Path) -> None:
    file = written(tmp_path, "import nowhere_at_all\n")
    with pytest.raises(HarnessError, match="pytest ended with 2") as caught:
        run_tests(STOCK, [file], tmp_path / "trial", deadline())
    assert "nowhere_at_all" in (caught.value.evidence or "")


def test_outcomes_are_seen_while_the_run_goes_on_and_it_ends_with_the_block(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    text = f"def test_first(): pass\n\ndef test_second(): open({str(gate)!r}).read()\n"
    with running_tests(STOCK, [written(tmp_path, text)], tmp_path / "trial") as trial:
        said = wait_until(lambda: trial.outcomes, deadline())
        assert [item.verdict for item in said] == [Verdict.PASS]
    with pytest.raises(OSError, match="No such device"):  # nobody has it open for reading
        os.open(gate, os.O_WRONLY | os.O_NONBLOCK)


OUTER = """
import sys
from functools import partial
from pathlib import Path
from harness.host.deadline import Deadline
from harness.validate.trial import running_tests
from tests.unit.test_trial import STOCK

file, results = sys.argv[1:]
with running_tests(STOCK, [file], Path(results), workers=2) as trial:
    trial.wait(Deadline(60, "the inner tests"))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda item: item.name)
def test_no_process_outlives_whoever_waits(tmp_path: Path, number: signal.Signals) -> None:
    pid = tmp_path / "pid"
    text = "import os, time\nfrom pathlib import Path\n\n\ndef test_long():\n"
    text += f"    Path({str(tmp_path / 'new')!r}).write_text(f'{{os.getpid()}} {{os.getppid()}}')\n"
    text += f"    os.rename({str(tmp_path / 'new')!r}, {str(pid)!r})\n    time.sleep(50)\n"
    argv = [sys.executable, "-c", OUTER, written(tmp_path, text), str(tmp_path / "trial")]
    with running(argv, name="outer", log=tmp_path / "log", cwd=CHECKOUT) as outer:
        worker, controller = wait_until(
            lambda: pid.read_text().split() if pid.exists() else None, deadline()
        )
        os.kill(outer.pid, number)
        outer.wait(deadline())
        for process in (controller, worker):
            wait_until(partial(gone, process), deadline())


def gone(pid: str) -> bool:
    """Whether a process has ended, be it that whoever inherited it has not reaped it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_tree_is_named_again_and_its_state_is_told(tmp_path: Path) -> None:
    source = TreeSource("/there/linux", "v6.12", ("/there/v2.mbox",))
    state = TreeState("0123", "4567", "v6.12 + 1 patch")
    subject = Subject(recipe=KernelRecipe("tree-linux", "one", tree=source), state=state)
    assert subject.options == [
        *("--tree", "/there/linux", "--rev", "v6.12", "--series", "/there/v2.mbox"),
    ]
    assert read_states(subject.environment[STATES_VARIABLE]) == {"tree-linux": state}


def test_a_place_without_tests_falls_back_to_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, "def test_well(): pass\n")
    assert len(run_tests(STOCK, [file], tmp_path / "trial", deadline())) == 1
    monkeypatch.setattr("harness.__file__", str(tmp_path / "harness/__init__.py"))
    with pytest.raises(MissingRequirement, match="no tests/guest here"):
        run_tests(STOCK, [file], tmp_path / "trial", deadline())
