"""Root without being root, tried for real."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness.build.namespace import as_root, check_namespaces, run_step
from harness.errors import BuildError, MissingRequirement
from harness.host.deadline import Deadline
from harness.host.process import run


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    try:
        check_namespaces()
    except MissingRequirement as missing:
        pytest.skip(str(missing))


def test_a_command_is_root_and_its_files_are_ours(tmp_path: Path) -> None:
    file = tmp_path / "file"
    done = run(as_root(["sh", "-c", f"id -u; touch {file}"]), deadline=Deadline(20, "id"))
    assert done.stdout == "0\n"
    assert file.stat().st_uid == os.getuid()


def test_nothing_outlives_a_command(tmp_path: Path) -> None:
    file = tmp_path / "late"
    argv = as_root(["sh", "-c", f"(sleep 0.3; touch {file}) & exit 0"])
    run(argv, deadline=Deadline(20, "a command with a child"))
    time.sleep(0.5)  # longer than the child would need
    assert not file.exists()


def test_a_failed_step_is_named_with_the_tail_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = ["sh", "-c", "seq 100; echo wrong >&2; exit 3"]
    with pytest.raises(BuildError, match="unpacking failed") as caught:
        run_step(argv, step="unpacking", log=log, deadline=Deadline(20, "sh"))
    assert (caught.value.evidence or "").endswith("99\n100\nwrong")
    assert "\n1\n" not in (caught.value.evidence or "")
    assert str(log) in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("refused", "hint"), [("tmpfs", "kernel.unprivileged_userns_clone"), ("proc", "not masked")]
)
def test_a_machine_that_forbids_one_says_what_to_allow(
    refused: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "unshare"
    program.write_text(f'#!/bin/sh\ncase " $* " in *" {refused} "*) echo no >&2; exit 1;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(MissingRequirement) as caught:
        check_namespaces()
    assert hint in (caught.value.hint or "")
