"""Runs that are ended: a few of what tests/soak/kills.py does hundreds of times, and Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.build.provision import Provisioner
from harness.host.deadline import timeout_factor
from harness.testbed.supplies import DEFAULT_KERNEL
from tests.soak.kills import MARK, Runs, marked

KILLS = 4
CTRL_CS = 3
CTRL_C = b"\x03"


@pytest.mark.timeout(600)
def test_a_killed_run_leaves_nothing_and_the_next_one_passes(
    provisioner: Provisioner, tmp_path: Path
) -> None:
    provisioner.guest(provisioner.recipes.kernels[DEFAULT_KERNEL])
    runs = Runs(tmp_path)
    length = runs.undisturbed()
    moments = [random.uniform(0, length) for _ in range(KILLS)]
    # The locks of the cache may be those of other tests' runs.
    left = {moment: runs.killed(moment) for moment in moments}
    assert not {m: found for m, found in left.items() if found.processes or found.temporary}
    runs.undisturbed()


def test_ctrl_c_ends_a_run_whatever_it_does_and_leaves_nothing(
    provisioner: Provisioner, tmp_path: Path
) -> None:
    provisioner.guest(provisioner.recipes.kernels[DEFAULT_KERNEL])
    # In the import of the verbs, the boot, the plugging, with each store.
    for number in range(CTRL_CS):
        moment = random.uniform(0.5, 10) * timeout_factor()
        mark = f"{os.getpid()}-{number}"
        status, said = run_in_terminal(moment, mark, tmp_path / mark)
        # The terminal writes ^C wherever it is typed: after the end, too.
        assert (status, said.replace("^C", "").rstrip().rpartition("\n")[2]) in (
            (130, "imsh: ended by SIGINT"),
            (0, "verdict: pass"),  # it was over before
        )
        assert "Traceback" not in said
        assert not marked(mark)


def run_in_terminal(moment: float, mark: str, results: Path) -> tuple[int, str]:
    """Run `imsh run`, type Ctrl-C after so many seconds; return its status and what it said."""
    terminal, its_end = os.openpty()
    argv = ["setsid", "--ctty", sys.executable, "-m", "harness", "run", "--results", str(results)]
    with subprocess.Popen(
        argv, stdin=its_end, stdout=its_end, stderr=its_end, env={**os.environ, MARK: mark}
    ) as run:
        os.close(its_end)
        typist = threading.Timer(moment, os.write, (terminal, CTRL_C))
        typist.start()
        said = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while data := os.read(terminal, 65536):
                said += data
        typist.cancel()
        typist.join()
        os.close(terminal)
        return run.wait(), said.decode(errors="replace")
