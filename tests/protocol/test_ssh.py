"""Commands over SSH, against a real server on loopback."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest

from harness.errors import (
    DeadlineExpired,
    GuestLost,
    GuestPanic,
    HarnessError,
)
from harness.guest.identity import Identity, make_identity
from harness.guest.ssh import GuestExit, SshSession, ssh_session
from harness.host.deadline import Deadline
from harness.qemu.vitals import Vitals
from tests.protocol.ssh_guest import Guest, ssh_guest

IDENTITY = make_identity()


@pytest.fixture
def guest() -> Iterator[Guest]:
    with ssh_guest(IDENTITY) as guest:
        yield guest


@pytest.fixture
def vitals() -> Vitals:
    return Vitals()


@pytest.fixture
def ssh(guest: Guest, vitals: Vitals) -> Iterator[SshSession]:
    with ssh_session(guest.address, IDENTITY, vitals) as ssh:
        yield ssh


def test_a_command_returns_what_it_said_and_how_it_ended(ssh: SshSession) -> None:
    result = ssh.run("echo out; echo err >&2; exit 3", check=False)
    assert (result.status, result.stdout, result.stderr) == (3, "out\n", "err\n")


def test_a_command_that_fails_is_an_error_with_its_words(ssh: SshSession) -> None:
    with pytest.raises(GuestExit, match="exit 3: exit status 3") as caught:
        ssh.run("echo why >&2; exit 3")
    assert caught.value.evidence == "why\n"
    assert caught.value.result.status == 3


def test_a_command_that_is_killed_has_no_status(ssh: SshSession) -> None:
    assert ssh.run("kill -9 $$", check=False).status == -1
    with pytest.raises(GuestExit):
        ssh.run("kill -9 $$")


def test_input_reaches_the_command(ssh: SshSession) -> None:
    assert ssh.run("tr a-z A-Z", stdin=b"hello").stdout == "HELLO"


def test_a_file_goes_in_and_comes_back(ssh: SshSession, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    path = tmp_path / "a file"
    ssh.put(content, str(path), mode=0o640)
    assert ssh.get(str(path)) == content
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_that_is_not_there_is_an_error(ssh: SshSession) -> None:
    with pytest.raises(GuestExit, match="cat /no/such/file"):
        ssh.get("/no/such/file")


def test_a_command_that_takes_too_long_expires_with_its_words(ssh: SshSession) -> None:
    with pytest.raises(DeadlineExpired, match="the sleep") as caught:
        ssh.run("echo so far; exec sleep 5", deadline=Deadline(0.5, "the sleep"))
    assert caught.value.evidence == "so far\n"


def test_after_a_command_has_expired_the_session_goes_on(ssh: SshSession) -> None:
    with pytest.raises(DeadlineExpired):
        ssh.run("exec sleep 5", deadline=Deadline(0.05, "the sleep"))
    assert ssh.run("echo hello").stdout == "hello\n"


def test_another_host_key_is_refused(guest: Guest, vitals: Vitals) -> None:
    other = Identity(host=make_identity().host, client=IDENTITY.client)
    with (
        pytest.raises(HarnessError, match="another host key"),
        ssh_session(guest.address, other, vitals),
    ):
        pass


def test_a_key_that_the_guest_refuses_is_named(guest: Guest, vitals: Vitals) -> None:
    other = Identity(host=IDENTITY.host, client=make_identity().client)
    with (
        pytest.raises(HarnessError, match="refuses our key"),
        ssh_session(guest.address, other, vitals),
    ):
        pass


class Impatient(paramiko.Transport):
    """The library's, with less patience of its own than we have."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.banner_timeout = 0.05


def test_a_slow_server_is_waited_for_as_long_as_asked(
    vitals: Vitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paramiko, "Transport", Impatient)
    with (
        ssh_guest(IDENTITY, silent=True) as guest,
        pytest.raises(DeadlineExpired, match="the server"),
        ssh_session(guest.address, IDENTITY, vitals, deadline=Deadline(0.5, "the server")),
    ):
        pass


def test_a_server_that_says_nothing_expires(vitals: Vitals) -> None:
    with (
        ssh_guest(IDENTITY, silent=True) as guest,
        pytest.raises(DeadlineExpired, match="the server"),
        ssh_session(guest.address, IDENTITY, vitals, deadline=Deadline(0.3, "the server")),
    ):
        pass


def test_a_port_where_nobody_listens_is_a_lost_guest(vitals: Vitals) -> None:
    with ssh_guest(IDENTITY) as guest:
        address = guest.address
    with pytest.raises(GuestLost, match="no SSH session"), ssh_session(address, IDENTITY, vitals):
        pass


def test_a_connection_that_breaks_is_a_lost_guest(ssh: SshSession, guest: Guest) -> None:
    timer = threading.Timer(0.05, guest.vanish)
    timer.start()
    with pytest.raises(GuestLost, match="closed the SSH connection"):
        ssh.run("exec sleep 5")
    timer.join()


def test_a_lost_machine_ends_a_command_at_once_with_its_error(
    ssh: SshSession, vitals: Vitals
) -> None:
    timer = threading.Timer(0.1, vitals.lose, [GuestPanic("oops")])
    timer.start()
    start = time.monotonic()
    with pytest.raises(GuestPanic, match="oops"):
        ssh.run("exec sleep 5")
    assert time.monotonic() - start < 2
    timer.join()


def test_a_cause_that_is_known_late_is_still_the_cause(
    ssh: SshSession, guest: Guest, vitals: Vitals
) -> None:
    timers = [
        threading.Timer(0.05, guest.vanish),
        threading.Timer(0.3, vitals.lose, [GuestPanic("oops")]),
    ]
    for timer in timers:
        timer.start()
    with pytest.raises(GuestPanic, match="oops"):
        ssh.run("exec sleep 5")
    for timer in timers:
        timer.join()


def test_a_lost_machine_fails_every_later_command(ssh: SshSession, vitals: Vitals) -> None:
    vitals.lose(GuestPanic("oops"))
    for _ in range(2):
        with pytest.raises(GuestPanic, match="oops"):
            ssh.run("true")
