"""Lines over a port of the guest, and what becomes of whoever waits when the machine is lost."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from harness.errors import DeadlineExpired, GuestLost, GuestPanic, ProtocolError
from harness.guest import port
from harness.guest.control import Control
from harness.guest.port import LinePort, line_port
from harness.host.deadline import Deadline
from harness.qemu.vitals import Vitals
from tests.memory_growth import memory_growth


@dataclass
class Guest:
    """The far end of a port, and the machine's life."""

    connection: socket.socket
    port: LinePort
    vitals: Vitals

    def ask(self, line: str, deadline: Deadline | None = None, *late: str) -> str:
        """Ask through the port; ``late`` are answers to earlier requests."""
        return self.port.ask(line, deadline or Deadline(10, "an answer"), late.__contains__)


@pytest.fixture
def guest() -> Iterator[Guest]:
    ours, theirs = socket.socketpair()
    vitals = Vitals()
    with ours, theirs, line_port(ours, vitals) as port:
        yield Guest(theirs, port, vitals)


def test_the_answer_is_one_line_however_it_arrives(guest: Guest) -> None:
    with guest.connection.makefile("rwb", buffering=0) as stream:

        def answer() -> None:
            assert stream.readline() == b"ping\n"
            for part in (b"po", b"ng", b"\nnext", b" line\n"):
                stream.write(part)

        thread = threading.Thread(target=answer)
        thread.start()
        assert guest.ask("ping") == "pong"
        thread.join()
        assert guest.ask("again") == "next line"


def test_a_long_answer_comes_whole(guest: Guest) -> None:
    line = b"x" * (3 << 20)
    thread = threading.Thread(target=guest.connection.sendall, args=(line + b"\n",))
    thread.start()
    assert len(guest.ask("log")) == 3 << 20
    thread.join()


def test_a_guest_that_floods_without_a_line_end_is_an_error_and_fills_no_memory(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "LONGEST_REPLY", 4 << 20)
    thread = threading.Thread(target=flood, args=(guest.connection,))
    thread.start()
    try:
        with memory_growth() as growth:
            for _ in range(2):
                with pytest.raises(ProtocolError, match="no line end"):
                    guest.ask("ping")
        assert growth.bytes < 8 << 20
    finally:
        guest.connection.shutdown(socket.SHUT_RDWR)
        thread.join()


def flood(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"x" * 65536)


def test_no_answer_ends_with_the_deadline(guest: Guest) -> None:
    with pytest.raises(DeadlineExpired, match="the answer"):
        guest.ask("ping", Deadline(0.05, "the answer"))


def test_half_an_answer_is_none(guest: Guest) -> None:
    guest.connection.sendall(b"po")
    with pytest.raises(DeadlineExpired):
        guest.ask("ping", Deadline(0.05, "the answer"))


def test_a_guest_that_reads_nothing_ends_with_the_deadline(guest: Guest) -> None:
    with pytest.raises(DeadlineExpired):
        guest.ask("x" * (8 << 20), Deadline(0.1, "the answer"))


def test_late_answers_are_dropped_before_and_behind_a_line_end(guest: Guest) -> None:
    guest.connection.sendall(b"one\ntwo\nthree\n")
    assert guest.ask("3", None, "one", "two") == "three"


def test_a_request_that_was_sent_in_part_does_not_spoil_the_next(guest: Guest) -> None:
    long = "x" * (2 << 20)
    with pytest.raises(DeadlineExpired):
        guest.ask(long, Deadline(0.1, "the answer"))

    def answer() -> None:
        with guest.connection.makefile("rwb") as stream:
            for _ in range(2):
                stream.write(b"to " + stream.readline()[:4].strip() + b"\n")
                stream.flush()

    thread = threading.Thread(target=answer)
    thread.start()
    assert guest.ask("ping", None, "to xxxx") == "to ping"
    thread.join()


def test_a_machine_that_is_lost_ends_the_wait_at_once_with_its_reason(guest: Guest) -> None:
    timer = threading.Timer(0.05, guest.vitals.lose, [GuestPanic("it panicked")])
    timer.start()
    deadline = Deadline(10, "the answer")
    with pytest.raises(GuestPanic, match="it panicked"):
        guest.ask("ping", deadline)
    assert deadline.remaining() > 5
    timer.join()
    with pytest.raises(GuestPanic):
        guest.ask("ping")


def test_a_port_that_is_closed_without_a_reason_is_a_lost_guest(guest: Guest) -> None:
    guest.connection.close()
    with pytest.raises(GuestLost, match="port is closed"):
        guest.ask("ping")


@pytest.mark.parametrize("came_in_time", [0, 30], ids=["nothing", "half a line"])
def test_the_late_answer_to_a_request_that_was_given_up_poisons_nothing(
    guest: Guest, came_in_time: int
) -> None:
    control = Control(guest.port)
    late = b'{"tag": "1", "errno": 0, "text": "of the first"}\n'
    guest.connection.sendall(late[:came_in_time])
    with pytest.raises(DeadlineExpired):
        control.kernel_log(seconds=0.05)
    guest.connection.sendall(
        late[came_in_time:] + b'{"tag": "2", "errno": 0, "text": "of the second"}\n'
    )
    assert control.kernel_log() == "of the second"
    # It is dropped once: the same answer again is nobody's.
    guest.connection.sendall(late)
    with pytest.raises(ProtocolError, match="no such request"):
        control.kernel_log()
