"""Children, tried for real: nothing outlives a harness, whenever and from wherever it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import DeadlineExpired, LaunchError
from harness.host.deadline import Deadline, wait_until
from harness.host.process import Process, run, running

HARNESS = """
import sys, threading, time
from pathlib import Path
from harness.host.process import running

def start():
    with running(["sh", "-c", "echo $$ >child; exec sleep 600"], name="child", log=Path("log")):
        time.sleep(600)

threading.Thread(target=start, daemon=True).start() if "thread" in sys.argv else start()
time.sleep(600)
"""

LATE_SETPRIV = """\
#!/bin/sh
echo $$ >late
while ! [ -e go ]; do sleep 0.01; done
exec {setpriv} "$@"
"""


@contextlib.contextmanager
def harness(directory: Path, *words: str, path: str = os.environ["PATH"]) -> Iterator[int]:
    """Hold a harness that holds a child, and kill it."""
    argv = [sys.executable, "-c", HARNESS, *words]
    with subprocess.Popen(argv, cwd=directory, env={**os.environ, "PATH": path}) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def pid_in(file: Path) -> int:
    """Return the process id that a file tells, as soon as it does."""
    wait_until(lambda: file.exists() and file.read_text().strip() != "", Deadline(20, file.name))
    return int(file.read_text())


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int) -> bool:
    with contextlib.suppress(DeadlineExpired):
        wait_until(lambda: not is_running(pid), Deadline(2, "its end"))
    return not is_running(pid)


# When the harness is killed.


@pytest.mark.parametrize("words", [(), ("thread",)])
def test_a_child_dies_with_the_harness(words: tuple[str, ...], tmp_path: Path) -> None:
    with harness(tmp_path, *words):
        child = pid_in(tmp_path / "child")
        assert is_running(child)
    assert ends(child)


def test_a_harness_that_dies_before_the_signal_is_set_leaves_no_child(tmp_path: Path) -> None:
    setpriv = tmp_path / "bin/setpriv"
    setpriv.parent.mkdir()
    real = subprocess.check_output(["sh", "-c", "command -v setpriv"], text=True).strip()
    setpriv.write_text(LATE_SETPRIV.format(setpriv=real))
    setpriv.chmod(0o755)
    with harness(tmp_path, path=f"{setpriv.parent}:{os.environ['PATH']}"):
        child = pid_in(tmp_path / "late")
    (tmp_path / "go").touch()
    try:
        assert ends(child)
        assert not (tmp_path / "child").exists(), "what was to be run was run"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_a_child_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        held: list[Process] = []
        sleep = running(["sleep", "600"], name="sleep", log=tmp_path / "log")
        thread = threading.Thread(target=lambda: held.append(stack.enter_context(sleep)))
        thread.start()
        thread.join()
        (process,) = held
        time.sleep(0.3)  # a signal at the thread's end would have come by now
        assert process.poll() is None


# Groups.


def test_a_group_is_signalled_while_its_leader_is_not_reaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Afterwards the id may be that of anybody.
    killpg = os.killpg
    leaders = []

    def note(group: int, number: int) -> None:
        leaders.append(Path(f"/proc/{group}").exists())
        killpg(group, number)

    monkeypatch.setattr(os, "killpg", note)
    run(["true"], deadline=Deadline(20, "true"))
    with running(["true"], name="true", log=tmp_path / "log") as process:
        process.wait(Deadline(20, "true"))
    process.signal(signal.SIGTERM)
    assert leaders
    assert all(leaders)


def test_members_that_outlive_their_leader_are_ended(tmp_path: Path) -> None:
    member = tmp_path / "member"
    run(["sh", "-c", f"sleep 600 & echo $! >{member}"], deadline=Deadline(20, "sh"))
    assert ends(pid_in(member))


def test_a_process_that_ignores_the_polite_signal_is_killed(tmp_path: Path) -> None:
    script = "trap '' TERM; echo >deaf; sleep 600"
    with running(["sh", "-c", script], name="deaf", log=tmp_path / "log", cwd=tmp_path) as process:
        wait_until((tmp_path / "deaf").exists, Deadline(20, "its start"))
        assert process.stop(grace=0.1) == -signal.SIGKILL
    assert not is_running(process.pid)


def test_the_end_is_that_of_all_who_kept_the_descriptors(tmp_path: Path) -> None:
    # In a session of its own: no signal of ours reaches it, as those of a process namespace.
    script = "setsid sh -c 'sleep 0.5; touch late' & sleep 0.2"
    run(["sh", "-c", script], deadline=Deadline(20, "sh"), cwd=tmp_path, log=tmp_path / "log")
    assert (tmp_path / "late").exists()


# What is said of them.


@pytest.mark.parametrize(
    ("script", "status"), [("exit 3", 3), ("kill -9 $$", -9), ("kill -ABRT $$", -6)]
)
def test_the_exit_status_is_kept(script: str, status: int, tmp_path: Path) -> None:
    assert run(["sh", "-c", script], deadline=Deadline(20, "sh"), check=False).returncode == status
    with running(["sh", "-c", script], name="sh", log=tmp_path / "log") as process:
        assert process.wait(Deadline(20, "sh")) == status
        assert process.poll() == status


def test_an_output_of_any_length_is_returned() -> None:
    script = "yes | head -c 3000000; yes no | head -c 3000000 >&2"
    assert len(run(["sh", "-c", script], deadline=Deadline(20, "yes")).stdout) == 3_000_000


def test_a_failure_carries_what_was_said() -> None:
    with pytest.raises(LaunchError, match="exit status 3") as caught:
        run(["sh", "-c", "echo out; echo err >&2; exit 3"], deadline=Deadline(20, "sh"))
    assert caught.value.evidence == "out\nerr"


def test_a_program_that_is_not_there_is_a_launch_error() -> None:
    with pytest.raises(LaunchError, match="exit status 127") as caught:
        run(["/nowhere/program"], deadline=Deadline(20, "a program"))
    assert "/nowhere/program" in (caught.value.evidence or "")


def test_a_directory_that_is_not_there_is_a_launch_error(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="cannot start true"):
        run(["true"], deadline=Deadline(20, "true"), cwd=tmp_path / "nowhere")


def test_no_descriptor_and_no_thread_is_left(tmp_path: Path) -> None:
    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = held()
    for _ in range(3):
        run(["true"], deadline=Deadline(20, "true"))
        with running(["sleep", "600"], name="sleep", log=tmp_path / "log"):
            pass
        with pytest.raises(LaunchError):
            run(["true"], deadline=Deadline(20, "true"), cwd=tmp_path / "nowhere")
    wait_until(lambda: held() == before, Deadline(2, "the last thread's end"))
