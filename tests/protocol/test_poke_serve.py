"""`imsh poke --serve`: who is served, who is refused, and what is left of a server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.host.deadline import Deadline, wait_until
from harness.host.process import Process, running
from harness.spec.vfio import Command, MessageFlags
from harness.vfio_user import wire
from harness.vfio_user.client import Client
from harness.vfio_user.wire import WireMessage
from tests.protocol.vfio_checks import soon


@contextlib.contextmanager
def serving(
    path: Path, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    argv = [sys.executable, "-m", "harness", "poke", "--serve", str(path)]
    env = os.environ | (environment or {})
    with running(argv, name="poke", log=log, env=env) as process:
        wait_until(lambda: "for QEMU" in log.read_text(), Deadline(60, "imsh poke --serve"))
        yield process


def test_a_served_device_takes_one_client_after_another_and_its_socket_is_gone_at_the_end(
    tmp_path: Path,
) -> None:
    path, log = tmp_path / "s", tmp_path / "log"
    with serving(path, log) as process:
        for _ in range(2):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.connect(str(path))
                with Client(connection) as client:
                    assert client.region_read(0, 0, 4) == b"IMS\0"
        process.signal(signal.SIGINT)
        assert process.wait(Deadline(10, "its end")) == 0
    assert not path.exists()
    assert "client 2 has come" in log.read_text()


@contextlib.contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        yield connection


def is_served(path: Path) -> bool:
    """Whether the server takes a client now, which is told at once."""
    with connected(path) as connection:
        try:
            with Client(connection) as client:
                return client.region_read(0, 0, 4) == b"IMS\0"
        except ConnectionError:
            return False


def test_a_second_client_is_refused_at_once_and_served_when_the_first_has_gone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    with serving(path, tmp_path / "log"):
        with connected(path) as first, Client(first) as client:
            for _ in range(3):
                start = time.monotonic()
                assert not is_served(path)
                assert time.monotonic() - start < soon("the refusal", 2).seconds
            assert client.region_read(0, 0, 4) == b"IMS\0"
        assert is_served(path)


def test_a_client_that_says_nothing_loses_its_place(tmp_path: Path) -> None:
    path, log = tmp_path / "s", tmp_path / "log"
    with serving(path, log, {"IMSH_TIMEOUT_FACTOR": "0.05"}), connected(path) as silent:
        assert silent.recv(1) == b""
        assert is_served(path)
        wait_until(lambda: "client 2 has gone" in log.read_text(), soon("the second's end"))
    assert "nothing was negotiated" in log.read_text()


@pytest.mark.parametrize("factor", ["100", "1e12"])
def test_a_large_factor_of_time_outs_does_not_end_the_server(tmp_path: Path, factor: str) -> None:
    path, log = tmp_path / "s", tmp_path / "log"
    with serving(path, log, {"IMSH_TIMEOUT_FACTOR": factor}) as process:
        assert is_served(path)
        assert is_served(path)
        process.signal(signal.SIGINT)
        assert process.wait(Deadline(10, "its end")) == 0


def test_the_socket_of_a_killed_server_does_not_stop_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(path, tmp_path / "log") as process:
        process.signal(signal.SIGKILL)
        process.wait(Deadline(10, "its end"))
    assert path.is_socket()
    with serving(path, tmp_path / "log2"):
        assert is_served(path)


def test_the_socket_of_a_living_server_is_left_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s"
    with serving(path, tmp_path / "log"):
        assert main(["poke", "--serve", str(path)]) == 2
        assert "somebody serves there" in capsys.readouterr().err
        assert is_served(path)


def test_a_server_removes_no_socket_but_its_own(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(path, tmp_path / "log") as process:
        path.unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.bind(str(path))
            process.signal(signal.SIGINT)
            assert process.wait(Deadline(10, "its end")) == 0
            assert path.is_socket()


def test_what_nobody_reads_does_not_stop_the_server(tmp_path: Path) -> None:
    path = tmp_path / "s"
    # Both streams into a pipe that nobody reads, and that holds 4 KiB.
    script = (
        "import fcntl, os, sys; ours, theirs = os.pipe(); fcntl.fcntl(theirs, 1031, 4096);"
        "os.dup2(theirs, 1); os.dup2(theirs, 2); os.set_inheritable(ours, True);"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    argv = [sys.executable, "-c", script, "-m", "harness", "poke", "--serve", str(path)]
    noise = WireMessage(1, Command.DMA_READ, MessageFlags.REPLY, bytes(300)).pack()
    version = WireMessage(0, Command.VERSION, 0, wire.Version(0, 0).pack()).pack()
    with running(argv, name="poke", log=tmp_path / "log") as process:
        wait_until(path.is_socket, Deadline(60, "imsh poke --serve"))
        for _ in range(20):
            with connected(path) as connection:
                connection.sendall(version + 50 * noise)
        assert is_served(path)
        process.signal(signal.SIGINT)
        assert process.wait(Deadline(10, "its end")) == 0


def test_a_place_that_is_taken_is_not_served_on_and_is_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    assert main(["poke", "--serve", str(path)]) == 2
    assert "Address already in use" in capsys.readouterr().err
    assert path.read_text() == "mine"
