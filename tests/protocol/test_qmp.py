"""The monitor session, against a peer that speaks the protocol as QEMU does, or does not."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from harness.errors import DeadlineExpired, HarnessError, ProtocolError, QemuExited
from harness.events.stream import Stream
from harness.host.deadline import Deadline
from harness.qemu.qmp import (
    MonitorCommandError,
    MonitorEvent,
    MonitorMessage,
    QmpSession,
    qmp_session,
)

GREETING = {
    "QMP": {
        "version": {"qemu": {"major": 11, "minor": 1, "micro": 3}, "package": ""},
        "capabilities": ["oob"],
    }
}


class Peer:
    """QEMU's end of a monitor. Answers ``ping`` and ``fail``, ends at ``die``, ignores the rest."""

    def __init__(self, end: socket.socket, greeting: bytes | None = None):
        self._end = end
        self._greeting = json.dumps(GREETING).encode() + b"\r\n" if greeting is None else greeting
        self._thread = threading.Thread(target=self._run, name="peer")
        self._thread.start()

    def tell(self, message: dict[str, Any]) -> None:
        self._end.sendall(json.dumps(message).encode() + b"\r\n")

    def announce(self, name: str, **data: Any) -> None:
        stamp = {"seconds": 100, "microseconds": 500_000}
        self.tell({"event": name, "data": data, "timestamp": stamp})

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            self._end.sendall(self._greeting)
            # Like QEMU, this takes one JSON object after the other, whatever is between them.
            text = ""
            while data := self._end.recv(4096):
                text += data.decode()
                while text := text.lstrip():
                    request, length = json.JSONDecoder().raw_decode(text)
                    text = text[length:]
                    if not self._answer(request):
                        self._end.shutdown(socket.SHUT_RDWR)
                        return

    def _answer(self, request: dict[str, Any]) -> bool:
        number = {"id": request["id"]} if "id" in request else {}
        match request["execute"]:
            case "qmp_capabilities":
                self.tell({"return": {}, **number})
            case "ping":
                self.tell({"return": request.get("arguments", "pong"), **number})
            case "human-monitor-command":
                self.tell({"return": "one\r\ntwo\r\n", **number})
            case "fail":
                self.tell({"error": {"class": "DeviceNotFound", "desc": "no ims0"}, **number})
            case "die":
                return False
        return True


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def peer(ends: tuple[socket.socket, socket.socket]) -> Iterator[Peer]:
    peer = Peer(ends[1])
    yield peer
    peer.close()


def gone() -> HarnessError:
    return QemuExited("QEMU ended (signal 9)")


@contextlib.contextmanager
def session(ends: tuple[socket.socket, socket.socket], **options: Any) -> Iterator[QmpSession]:
    with qmp_session(ends[0], deadline=Deadline(5, "the greeting"), gone=gone, **options) as qmp:
        yield qmp


@pytest.fixture
def qmp(ends: tuple[socket.socket, socket.socket], peer: Peer) -> Iterator[QmpSession]:
    with session(ends) as qmp:
        yield qmp


def test_a_command_gets_its_answer(qmp: QmpSession) -> None:
    assert qmp.execute("ping") == "pong"
    assert qmp.execute("ping", {"a": 1}) == {"a": 1}


def test_a_refused_command_names_class_and_reason(qmp: QmpSession) -> None:
    with pytest.raises(MonitorCommandError, match="refused fail: no ims0") as caught:
        qmp.execute("fail")
    assert caught.value.error_class == "DeviceNotFound"
    assert caught.value.description == "no ims0"


def test_the_human_monitors_lines_end_as_lines_do(qmp: QmpSession) -> None:
    assert qmp.human("info anything") == "one\ntwo\n"


def test_a_command_without_answer_expires_and_the_session_goes_on(qmp: QmpSession) -> None:
    start = time.monotonic()
    with pytest.raises(DeadlineExpired, match="the answer"):
        qmp.execute("ignore", deadline=Deadline(0.05, "the answer"))
    assert time.monotonic() - start < 2
    assert qmp.execute("ping") == "pong"


def test_the_end_of_qemu_ends_a_command(qmp: QmpSession) -> None:
    with pytest.raises(QemuExited, match="signal 9"):
        qmp.execute("die")


def test_after_the_end_every_command_says_so(qmp: QmpSession) -> None:
    with pytest.raises(QemuExited):
        qmp.execute("die")
    with pytest.raises(QemuExited, match="signal 9"):
        qmp.execute("ping")


def test_the_end_of_qemu_ends_a_wait_for_an_event(qmp: QmpSession, peer: Peer) -> None:
    timer = threading.Timer(0.05, peer.close)
    timer.start()
    with pytest.raises(QemuExited), qmp.expecting("STOP", Deadline(5, "STOP")):
        pass
    timer.join()


def test_a_wait_takes_the_event_that_is_accepted(qmp: QmpSession, peer: Peer) -> None:
    asked = []

    def accept(data: Mapping[str, Any]) -> bool:
        asked.append(data["device"])
        return asked == ["a", "b"]

    with qmp.expecting("DEVICE_DELETED", Deadline(5, "b's end"), accept):
        peer.announce("STOP")
        for device in ("a", "b", "c"):
            peer.announce("DEVICE_DELETED", device=device)
    assert asked == ["a", "b"]


def test_what_was_announced_before_is_not_what_is_expected(qmp: QmpSession, peer: Peer) -> None:
    peer.announce("STOP")
    qmp.execute("ping")
    expired = pytest.raises(DeadlineExpired, match="the stop")
    with expired, qmp.expecting("STOP", Deadline(0.05, "the stop")):
        peer.announce("RESUME")


def test_nothing_is_waited_for_when_what_should_cause_it_fails(qmp: QmpSession) -> None:
    with pytest.raises(MonitorCommandError), qmp.expecting("STOP", Deadline(5, "the stop")):
        qmp.execute("fail")


def test_events_are_in_the_stream_and_forwarded_in_order(
    ends: tuple[socket.socket, socket.socket], peer: Peer
) -> None:
    forwarded: list[MonitorEvent] = []
    events = Stream()
    with (
        session(ends, on_event=forwarded.append, events=events) as qmp,
        qmp.expecting("RESUME", Deadline(5, "an event")),
    ):
        peer.announce("SHUTDOWN", guest=True)
        peer.tell({"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 0}})
    assert [(event.name, event.data) for event in forwarded] == [
        ("SHUTDOWN", {"guest": True}),
        ("RESUME", {}),
    ]
    assert events.of(MonitorEvent) == forwarded
    assert str(forwarded[1]).startswith('<- {"event"')


def test_the_stream_has_both_directions(
    ends: tuple[socket.socket, socket.socket], peer: Peer
) -> None:
    events = Stream()
    with session(ends, events=events) as qmp:
        qmp.execute("ping")
    passed = events.of(MonitorMessage)
    assert [message.arrow for message in passed] == ["<-", "->", "<-", "->", "<-"]
    assert '"execute":"ping"' in passed[3].text.replace(" ", "")


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400\r\n", b"[1]\r\n", b'{"hello": 1}\r\n'])
def test_a_peer_that_does_not_speak_the_protocol_is_refused(
    ends: tuple[socket.socket, socket.socket], greeting: bytes
) -> None:
    peer = Peer(ends[1], greeting)
    with pytest.raises(ProtocolError, match="does not speak QMP"), session(ends):
        pass
    peer.close()


def test_a_peer_that_says_nothing_is_given_up(ends: tuple[socket.socket, socket.socket]) -> None:
    deadline = Deadline(0.05, "the greeting")
    with (
        pytest.raises(DeadlineExpired, match="the greeting"),
        qmp_session(ends[0], deadline=deadline, gone=gone),
    ):
        pass


def test_a_peer_that_ends_before_the_greeting_is_gone(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ends[1].close()
    with pytest.raises(QemuExited), session(ends):
        pass
