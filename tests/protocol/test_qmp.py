"""The monitor session, against a peer that speaks the protocol as QEMU does, or does not."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from harness.errors import DeadlineExpired, HarnessError, ProtocolError, QemuExited
from harness.events.stream import Stream
from harness.host.deadline import Deadline
from harness.qemu.qmp import Event, MonitorCommandError, MonitorMessage, QmpSession, qmp_session

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
    with qmp.events("STOP") as events, pytest.raises(QemuExited):
        events.wait(Deadline(5, "STOP"))
    timer.join()


def test_events_come_in_order_and_only_those_asked_for(qmp: QmpSession, peer: Peer) -> None:
    with qmp.events("STOP", "RESUME") as events:
        for name in ("STOP", "RESET", "RESUME"):
            peer.announce(name)
        names = [events.wait(Deadline(5, "an event")).name for _ in range(2)]
    assert names == ["STOP", "RESUME"]


def test_an_event_carries_its_data_and_time(qmp: QmpSession, peer: Peer) -> None:
    with qmp.events("SHUTDOWN") as events:
        peer.announce("SHUTDOWN", guest=True)
        assert events.wait(Deadline(5, "SHUTDOWN")) == Event("SHUTDOWN", {"guest": True}, 100.5)


def test_a_wait_takes_the_event_that_is_accepted(qmp: QmpSession, peer: Peer) -> None:
    with qmp.events("DEVICE_DELETED") as events:
        for device in ("a", "b"):
            peer.announce("DEVICE_DELETED", device=device)
        event = events.wait(Deadline(5, "b's end"), lambda event: event.data["device"] == "b")
    assert event.data["device"] == "b"


def test_a_wait_for_an_event_expires(qmp: QmpSession) -> None:
    with qmp.events("STOP") as events, pytest.raises(DeadlineExpired, match="the stop"):
        events.wait(Deadline(0.05, "the stop"))


def test_events_without_data_are_events_too(qmp: QmpSession, peer: Peer) -> None:
    with qmp.events() as events:
        peer.tell({"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 0}})
        assert events.wait(Deadline(5, "an event")) == Event("RESUME", {}, 1.0)


def test_every_event_is_forwarded(ends: tuple[socket.socket, socket.socket], peer: Peer) -> None:
    seen: list[str] = []
    both = threading.Event()

    def on_event(event: Event) -> None:
        seen.append(event.name)
        if len(seen) == 2:
            both.set()

    with session(ends, on_event=on_event):
        peer.announce("RESET")
        peer.announce("STOP")
        assert both.wait(5)
    assert seen == ["RESET", "STOP"]


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
