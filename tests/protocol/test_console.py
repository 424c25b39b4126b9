"""The console's reader, over a socket as QEMU's character device would be."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from harness.errors import DeadlineExpired, GuestPanic, HarnessError
from harness.events.stream import Stream
from harness.guest.kernel_log import alarm
from harness.host.deadline import Deadline
from harness.qemu.console import LAST_WORDS_SECONDS, Console, ConsoleLine, watched_console
from tests.memory_growth import memory_growth

PANIC = b"[    1.0] Kernel panic - not syncing: x\n"


@dataclass
class Guest:
    """The guest's end of a console, and what its watchers were told."""

    end: socket.socket
    console: Console
    lost: list[HarnessError]
    events: Stream
    alarms: list[tuple[str, str]] = field(default_factory=list)
    told: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def guest() -> Iterator[Guest]:
    ours, theirs = socket.socketpair()
    holder: list[Guest] = []
    lost: list[HarnessError] = []
    events = Stream(lost=lambda: lost[0] if lost else None)

    def on_alarm(kind: str, line: str) -> None:
        holder[0].alarms.append((kind, line))
        holder[0].told.set()

    def on_end() -> None:
        holder[0].ended.set()

    watched = watched_console(ours, alarm=alarm, on_alarm=on_alarm, on_end=on_end, events=events)
    with theirs, watched as console:
        holder.append(Guest(theirs, console, lost, events))
        yield holder[0]


def soon(what: str = "a line") -> Deadline:
    return Deadline(5, what)


def test_a_wait_ends_with_the_line_it_is_for(guest: Guest) -> None:
    guest.end.sendall(b"booting\nready 42\n")
    assert guest.console.wait_for(r"ready (\d+)", soon())[1] == "42"


def test_a_line_that_came_before_the_wait_counts(guest: Guest) -> None:
    guest.end.sendall(b"ready 1\nlater\n")
    guest.console.wait_for("later", soon())
    assert guest.console.wait_for("ready", soon())


def test_a_line_may_come_in_pieces(guest: Guest) -> None:
    timer = threading.Timer(0.05, guest.end.sendall, [b"dy 7\n"])
    guest.end.sendall(b"rea")
    timer.start()
    assert guest.console.wait_for(r"^ready 7$", soon())
    timer.join()


def test_terminal_controls_are_taken_out(guest: Guest) -> None:
    guest.end.sendall(b"\x1bc\x1b[2J\x1b[01;31mred\x1b[m\r\n")
    assert guest.console.wait_for("^red$", soon())


def test_bytes_that_are_no_text_do_no_harm(guest: Guest) -> None:
    guest.end.sendall(b"\xff\xfe\x80 noise\nready\n")
    assert guest.console.wait_for("ready", soon())


def test_a_wait_in_vain_shows_what_was_last_seen(guest: Guest) -> None:
    guest.end.sendall(b"something else\n$ ")
    guest.console.wait_for("else", soon())
    with pytest.raises(DeadlineExpired, match="the prompt: nothing") as caught:
        guest.console.wait_for("never", Deadline(0.05, "the prompt"))
    assert caught.value.evidence is not None
    assert "something else" in caught.value.evidence


def test_a_wait_ends_at_once_when_the_machine_is_lost(guest: Guest) -> None:
    def lose() -> None:
        guest.lost.append(GuestPanic("gone"))
        guest.events.wake()

    timer = threading.Timer(0.05, lose)
    timer.start()
    with pytest.raises(GuestPanic, match="gone"):
        guest.console.wait_for("never", soon())
    timer.join()


def test_a_fatal_line_raises_the_alarm(guest: Guest) -> None:
    guest.end.sendall(b"fine\n" + PANIC + b"[    1.1] ---[ end Kernel panic ]---\n")
    assert guest.told.wait(5)
    assert guest.alarms == [("panic", PANIC.decode().rstrip())]


def test_the_alarm_waits_for_the_end_of_the_report(guest: Guest) -> None:
    guest.end.sendall(PANIC)
    assert not guest.told.wait(LAST_WORDS_SECONDS / 2)
    guest.end.sendall(b"[    1.1] ---[ end Kernel panic ]---\n")
    assert guest.told.wait(LAST_WORDS_SECONDS / 4)
    assert "---[ end" in guest.console.tail()


def test_the_alarm_does_not_wait_for_ever(guest: Guest) -> None:
    guest.end.sendall(PANIC)
    assert guest.told.wait(5)


def test_the_alarm_is_raised_even_if_the_report_never_stops(guest: Guest) -> None:
    guest.end.sendall(PANIC)
    start = time.monotonic()
    while not guest.told.wait(0.02):
        guest.end.sendall(b"and more\n")
        assert time.monotonic() - start < 5, "no alarm"


def test_the_alarm_is_raised_when_qemu_ends_behind_it(guest: Guest) -> None:
    guest.end.sendall(PANIC)
    guest.end.close()
    assert guest.ended.wait(5)
    assert [kind for kind, _ in guest.alarms] == ["panic"]


def test_the_reason_of_the_end_is_told_before_the_end(guest: Guest) -> None:
    guest.end.close()
    with pytest.raises(HarnessError, match="the console ended before the prompt"):
        guest.console.wait_for("never", soon("the prompt"))
    assert guest.ended.is_set()


def test_what_is_typed_reaches_the_guest(guest: Guest) -> None:
    guest.console.send("help\n")
    assert guest.end.recv(16) == b"help\n"


def test_typing_into_a_closed_console_is_an_error(guest: Guest) -> None:
    guest.end.close()
    assert guest.ended.wait(5)
    with pytest.raises(HarnessError, match="QEMU has ended"):
        guest.console.send("x")


def test_the_newest_lines_are_kept(guest: Guest) -> None:
    line = b"x" * 2000
    count = 2 * ConsoleLine.LIMIT // len(line)
    with memory_growth() as growth:
        guest.end.sendall(b"first\n" + b"".join(b"%d %s\n" % (n, line) for n in range(count)))
        guest.console.wait_for(f"^{count - 1} ", soon())
    assert growth.bytes < ConsoleLine.LIMIT + (1 << 18)
    lines = guest.console.text().splitlines()
    assert len(lines) > count // 4
    assert lines[-1].startswith(f"{count - 1} ")
    assert "first" not in lines


def test_a_guest_that_prints_no_line_end_fills_no_memory(guest: Guest) -> None:
    with memory_growth() as growth:
        for _ in range(3 * ConsoleLine.LIMIT // 65536):
            guest.end.sendall(b"x" * 65536)
        guest.end.sendall(b"\nready\n")
        guest.console.wait_for("^ready$", soon())
    assert growth.bytes < ConsoleLine.LIMIT + (1 << 18)


def test_an_error_of_a_watcher_surfaces_at_the_end() -> None:
    ours, theirs = socket.socketpair()
    told = threading.Event()

    def broken(kind: str, line: str) -> None:
        told.set()
        raise ValueError("watcher")

    def session() -> None:
        with watched_console(
            ours, alarm=alarm, on_alarm=broken, on_end=lambda: None, events=Stream()
        ):
            theirs.sendall(PANIC)
            assert told.wait(5)

    with theirs, pytest.raises(ValueError, match="watcher"):
        session()
