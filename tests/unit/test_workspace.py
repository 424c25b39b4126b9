"""Artifact directories, sockets without a name, and signals."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.host.signals import HANDLED, Interrupted, signals_as_interrupt
from harness.host.workspace import directory_lock, make_workspace, nameless_listener


def test_a_workspace_is_a_new_directory_each_time(tmp_path: Path) -> None:
    names = [make_workspace(tmp_path / "runs", "vm").directory.name for _ in range(3)]
    assert names == ["vm", "vm.1", "vm.2"]


def test_an_artifact_may_have_a_directory_of_its_own(tmp_path: Path) -> None:
    path = make_workspace(tmp_path, "vm").write("guest/dmesg", "text")
    assert path == tmp_path.resolve() / "vm" / "guest" / "dmesg"
    assert path.read_text() == "text"


def test_a_workspace_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot make the directory"):
        make_workspace(tmp_path / "file", "vm")


def test_a_listener_without_a_name_can_be_connected_to() -> None:
    with nameless_listener() as (listener, path), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        served, _ = listener.accept()
        with served:
            served.sendall(b"hello")
            assert client.recv(5) == b"hello"


def test_a_listener_without_a_name_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with nameless_listener():
        assert list(tmp_path.iterdir()) == []


def test_a_listener_without_a_name_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    with nameless_listener():
        assert len(os.listdir("/proc/self/fd")) == len(before) + 2
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_becomes_an_interrupt(number: signal.Signals) -> None:
    with pytest.raises(Interrupted) as caught, signals_as_interrupt():
        signal.raise_signal(number)
    assert caught.value.number is number
    assert isinstance(caught.value, KeyboardInterrupt)


def test_a_second_signal_does_not_cut_the_clean_up_short() -> None:
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned.append(True)

    with pytest.raises(Interrupted), signals_as_interrupt():
        work()
    assert cleaned


def test_the_handlers_before_come_back() -> None:
    before = [signal.getsignal(number) for number in HANDLED]
    with signals_as_interrupt():
        assert [signal.getsignal(number) for number in HANDLED] != before
    assert [signal.getsignal(number) for number in HANDLED] == before


def test_a_directory_is_held_against_other_runs(tmp_path: Path) -> None:
    with (
        directory_lock(tmp_path / "results"),
        pytest.raises(ConfigError, match="another run uses"),
        directory_lock(tmp_path / "results"),
    ):
        raise AssertionError("held twice")
    with directory_lock(tmp_path / "results"):
        pass
