"""Processes of one user that reach each other: clients good and bad, and sockets left behind."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.host import control_socket
from harness.host.control_socket import CLIENTS, ask, reachable, socket_directory, sweep
from harness.host.deadline import Deadline, wait_until
from harness.host.process import run

OWNER = """
import time
from harness.host.control_socket import reachable
with reachable({"pid": lambda: {}}) as path:
    print(path, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory of this test's own, with a path longer than a socket's may be."""
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    return directory / "imsh"


def soon(what: str = "an answer") -> Deadline:
    return Deadline(10, what)


def boom() -> Mapping[str, object]:
    raise HarnessError("it went wrong")


def bug() -> Mapping[str, object]:
    raise KeyError("a bug of ours")


@pytest.fixture
def path(runtime: Path) -> Iterator[Path]:
    """A socket with operations of every kind."""
    large = {"data": "x" * (8 << 20)}
    with reachable(
        {"echo": lambda: {"said": 1}, "boom": boom, "bug": bug, "large": lambda: large}
    ) as path:
        yield path


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(soon().seconds)
    directory = os.open(path.parent, os.O_RDONLY)
    client.connect(f"/proc/self/fd/{directory}/{path.name}")
    os.close(directory)
    return client


def test_a_request_is_answered_wherever_the_directory_is(path: Path) -> None:
    assert len(str(path)) > 108
    assert ask(path, "echo", soon()) == {"said": 1}


def test_the_directory_and_what_is_in_it_are_the_users_alone(path: Path, runtime: Path) -> None:
    assert path.parent == runtime
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
    assert sweep() == [path]


@pytest.mark.parametrize(
    ("operation", "message"),
    [("boom", "it went wrong"), ("bug", "KeyError"), ("none", "there are echo, boom")],
)
def test_a_refusal_says_why(path: Path, operation: str, message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        ask(path, operation, soon())
    assert ask(path, "echo", soon()) == {"said": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"\n", b"[]\n", b'{"op": 7}\n', b'{"op": []}\n', b"\xff\xfe\n", b"null\n",
        b"x" * 5000 + b"\n", b"[" * 4000 + b"\n",
    ],
)  # fmt: skip
def test_what_is_no_request_gets_an_error(path: Path, data: bytes) -> None:
    with connect(path) as client:
        client.sendall(data)
        assert "error" in json.loads(client.makefile("rb").readline())
    assert ask(path, "echo", soon()) == {"said": 1}


def test_clients_that_are_silent_or_never_read_hold_nobody_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "REQUEST_SECONDS", 1.0)
    with contextlib.ExitStack() as stack:
        bad = [stack.enter_context(connect(path)) for _ in range(CLIENTS - 1)]
        bad[0].sendall(b'{"op": "large"}\n')  # and never reads it
        start = time.monotonic()
        assert ask(path, "echo", soon()) == {"said": 1}
        assert time.monotonic() - start < Deadline(0.8, "").seconds
        for client in bad:
            wait_until(functools.partial(ended, client), Deadline(10, "the end of a bad client"))
        wait_until(lambda: ask_or_none(path) is not None, soon())  # their places are free again

        bad = [stack.enter_context(connect(path)) for _ in range(CLIENTS)]
        # All places are taken, and the next is told so.
        assert b"too many" in stack.enter_context(connect(path)).recv(100)
        for client in bad:
            wait_until(functools.partial(ended, client), Deadline(10, "the end of a bad client"))
    wait_until(lambda: ask_or_none(path) is not None, soon())


def ended(client: socket.socket) -> bool:
    return not client.recv(1 << 20)


def ask_or_none(path: Path) -> object:
    try:
        return ask(path, "echo", soon())
    except HarnessError:
        return None


def test_the_end_does_not_wait_for_a_client(runtime: Path) -> None:
    before = threading.active_count()
    with reachable({"echo": lambda: {}}) as path:
        client = connect(path)
    with client:
        assert ended(client)
    assert threading.active_count() == before
    assert list(runtime.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        ask(path, "echo", soon())


def test_a_name_that_a_killed_process_left_is_swept_away(path: Path, runtime: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    left = Path(owner.stdout.readline().strip())
    assert sweep() == sorted([path, left])
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert left.exists()
    with pytest.raises(ConnectionRefusedError):
        ask(left, "pid", soon())
    assert sweep() == [path]
    assert not left.exists()


def test_a_directory_that_others_can_get_at_is_refused(runtime: Path) -> None:
    runtime.mkdir(mode=0o755)
    runtime.chmod(0o755)
    with pytest.raises(HarnessError, match="is not a directory of this user's alone"):
        socket_directory()


def test_a_link_in_the_directorys_place_is_refused(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    runtime.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HarnessError, match="is not a directory of this user's alone"):
        socket_directory()


def test_without_a_runtime_directory_the_cache_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("IMSH_CACHE", str(tmp_path / "cache"))
    assert socket_directory() == tmp_path / "cache" / "run"


CLIENT = """
import select, socket, sys
client = socket.socket(socket.AF_UNIX)
client.settimeout(10)
try:
    client.connect(sys.argv[1])
except PermissionError:
    sys.exit(print("no way in"))
select.select([client], [], [], 0.3)  # one that refuses unasked has closed by now
client.sendall(b'{"op": "echo"}' + bytes([10]))
print(client.recv(1000).decode())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a client of another user")
def test_another_user_is_refused_by_the_directory_and_by_the_kernels_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Not below pytest's own directory, which other users cannot enter anyway.
    with tempfile.TemporaryDirectory(prefix="imsh-") as runtime:
        os.chmod(runtime, 0o755)
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        with reachable({"echo": lambda: {"said": 1}}) as path:
            other = ["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-c", CLIENT]
            refused = run([*other, str(path)], deadline=soon(), check=False)
            assert refused.stdout == "no way in\n"
            path.parent.chmod(0o755)
            path.chmod(0o777)
            said = run([*other, str(path)], deadline=soon(), check=False)
            assert "this belongs to another user" in said.stdout
