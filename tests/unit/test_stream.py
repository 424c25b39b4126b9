"""The stream: one order for all observers, lanes that are bounded, and one way to wait."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import ClassVar

import pytest

from harness.errors import DeadlineExpired, GuestPanic, HarnessError
from harness.events.clock import ClockTied
from harness.events.stream import Event, Stream, Writer, now
from harness.events.timeline import timeline
from harness.host.deadline import Deadline
from tests.memory_growth import memory_growth


@dataclass(frozen=True, slots=True)
class Word(Event):
    """Something said."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Number(Event):
    """Something counted, often."""

    LIMIT: ClassVar[int] = 1 << 16

    value: int


def soon(seconds: float = 5) -> Deadline:
    return Deadline(seconds, "the word")


def say(stream: Stream, text: str, when: int | None = None, source: str = "us") -> None:
    stream.write(Word(now() if when is None else when, source, text))


def test_what_several_wrote_stands_in_the_order_of_time() -> None:
    stream = Stream()
    say(stream, "third", 30)
    stream.write(Number(20, "counter", 2))
    say(stream, "first", 10)
    assert [event.when for event in stream.since()] == [10, 20, 30]
    assert [word.text for word in stream.of(Word)] == ["first", "third"]


def test_a_mark_opens_a_window() -> None:
    stream = Stream()
    say(stream, "before")
    mark = stream.mark()
    say(stream, "after", source="them")
    assert [word.text for word in stream.of(Word, mark)] == ["after"]
    assert stream.of(Word, mark, source="us") == []
    assert len(stream.since(mark)) == 1


def test_a_flood_of_one_kind_is_bounded_and_leaves_the_others_alone() -> None:
    stream = Stream()
    say(stream, "rare")
    with memory_growth() as growth:
        for value in range(10_000):
            stream.write(Number(now(), "counter", value))
    assert growth.bytes < Number.LIMIT
    assert [word.text for word in stream.of(Word)] == ["rare"]
    assert stream.of(Number)[-1].value == 9_999
    assert stream.gone() == 10_000 - len(stream.of(Number))


def test_a_window_that_is_not_whole_is_an_error_not_a_shorter_one() -> None:
    stream = Stream()
    stream.write(Number(now(), "counter", 0))
    mark = stream.mark()
    for value in range(10_000):
        stream.write(Number(now(), "counter", value))
    with pytest.raises(HarnessError, match="Number events of this window are not kept"):
        stream.of(Number, mark)


def test_a_wait_ends_with_the_event_it_is_for() -> None:
    stream = Stream()
    say(stream, "the word")  # before the wait: does not count

    def speak() -> None:
        say(stream, "noise")
        say(stream, "the word, again")

    timer = threading.Timer(0.05, speak)
    timer.start()
    found = stream.wait(Word, soon(), lambda word: word.text.startswith("the word"))
    timer.join()
    assert found.text == "the word, again"


def test_a_wait_from_a_mark_finds_what_came_before_it() -> None:
    stream = Stream()
    mark = stream.mark()
    say(stream, "early")
    assert stream.wait(Word, soon(), since=mark).text == "early"


def test_a_wait_in_vain_says_what_came_instead() -> None:
    stream = Stream()
    mark = stream.mark()
    say(stream, "something else")
    with pytest.raises(DeadlineExpired, match="the word: nothing") as caught:
        stream.wait(Word, soon(0.02), lambda word: word.text == "never", since=mark)
    assert caught.value.evidence == "last seen: something else"


def test_a_wait_ends_when_nothing_more_will_come() -> None:
    lost: list[HarnessError] = []
    stream = Stream(lost=lambda: lost[0] if lost else None)

    def lose() -> None:
        lost.append(GuestPanic("gone"))
        stream.wake()

    timer = threading.Timer(0.05, lose)
    timer.start()
    with pytest.raises(GuestPanic):
        stream.wait(Word, soon())
    timer.join()


def test_who_writes_late_is_asked_by_views_and_waits() -> None:
    stream = Stream()
    log: list[str] = []

    def write_new() -> None:
        while log:
            say(stream, log.pop(0))

    stream.ask_late_writer(write_new, Word)
    log.append("one")
    mark = stream.mark()
    assert [word.text for word in stream.of(Word)] == ["one"]
    timer = threading.Timer(0.05, lambda: log.append("two"))
    timer.start()
    assert stream.wait(Word, soon(), since=mark).text == "two"
    timer.join()


def test_who_writes_late_is_not_asked_for_what_others_write() -> None:
    stream = Stream()
    asked: list[None] = []
    stream.ask_late_writer(lambda: asked.append(None), Word)
    assert stream.of(ClockTied) == []
    assert stream.mark_of(ClockTied).ends == {ClockTied: 0}
    assert not asked
    assert stream.of(Word) == []
    assert len(asked) == 1


def test_a_writer_joins_another_stream_under_another_name() -> None:
    writer = Writer("alone")
    say(writer.stream, "before", source=writer.source)
    machine = Stream()
    writer.join(machine, "function0")
    say(writer.stream, "after", source=writer.source)
    assert [(word.source, word.text) for word in machine.of(Word)] == [("function0", "after")]


def test_a_timeline_is_a_line_an_event() -> None:
    stream = Stream()
    say(stream, "one", 1_000_000_000)
    say(stream, "two", 3_500_000_000, source="them")
    assert list(timeline(stream)) == [
        "    0.000000  +0.000000 us         one\n",
        "    2.500000  +2.500000 them       two\n",
    ]
