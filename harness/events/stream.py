"""The stream: what every observer of one machine has seen, in one record on one clock.

An observer writes :class:`Event` objects of kinds of its own, defined beside it; evidence, counts
and oracles are views of them. Each kind has a lane of its own, bounded in bytes, so that a flood of
one never drives out the others. The clock is CLOCK_MONOTONIC in nanoseconds, and it is the order:
what somebody writes late (a log that is read afterwards) stands where it happened.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, TypeVar

from harness.errors import HarnessError
from harness.events.ring import Ring
from harness.host.deadline import Deadline

LATE_SECONDS: Final = 0.02
"""How often a wait asks those who write late."""

now: Final = time.monotonic_ns
"""The one clock."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that an observer saw. A kind is a subclass; its text says what, without the when.

    Text is made when somebody reads: to write an event has to stay cheap.
    """

    LIMIT: ClassVar[int] = 8 << 20
    """Bytes of this kind that are kept."""
    BYTES: ClassVar[int] = 320
    """What one takes in memory, without text of its own."""

    when: int
    """Nanoseconds of CLOCK_MONOTONIC."""
    source: str
    """Who saw it: ``function0``, ``monitor``, ``console``."""

    def held(self) -> int:
        """Return the bytes that this event takes."""
        return self.BYTES


E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment in a stream: how far each lane had come."""

    ends: Mapping[type[Event], int]


BEGINNING: Final = Mark({})


class Stream:
    """Events of one machine, or of one model that stands alone. Any thread may call any method.

    :param lost: asked by whoever waits; its error says why nothing more will come.
    """

    def __init__(self, lost: Callable[[], HarnessError | None] = lambda: None):
        self._lost = lost
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._awaited: Counter[type[Event]] = Counter()
        self._wakes = 0
        self._lanes: dict[type[Event], Ring[Event]] = {}
        self._late: list[tuple[Callable[[], None], tuple[type[Event], ...]]] = []

    def write(self, event: Event) -> None:
        """Add an event. Never blocks and never fails; safe under any lock of the writer's."""
        kind = type(event)
        with self._lock:
            lane = self._lanes.get(kind)
            if lane is None:
                lane = self._lanes[kind] = Ring(kind.LIMIT)
            lane.append(event, event.held())
            if self._awaited[kind]:
                self._changed.notify_all()

    def ask_late_writer(self, write_new: Callable[[], None], *kinds: type[Event]) -> None:
        """Have somebody write what is new whenever the stream is looked at: a log that is read.

        :param kinds: what it writes. Who waits for one of these asks it again and again.
        """
        self._late.append((write_new, kinds))

    def wake(self) -> None:
        """Make every wait ask again whether something was lost."""
        with self._lock:
            self._wakes += 1
            self._changed.notify_all()

    def mark(self) -> Mark:
        """Return the moment that is now."""
        self._hear_late_writers()
        with self._lock:
            return Mark({kind: lane.end for kind, lane in self._lanes.items()})

    def mark_of(self, kind: type[Event]) -> Mark:
        """Return the moment that is now in one kind; the others are not asked for."""
        self._hear_late_writers(kind)
        with self._lock:
            lane = self._lanes.get(kind)
            return Mark({kind: lane.end if lane else 0})

    def of(self, kind: type[E], since: Mark = BEGINNING, *, source: str | None = None) -> list[E]:
        """Return the events of a kind, in the order of time.

        Without a mark: those that are kept. With one: all that came since, or an error.

        :raises HarnessError: some of them are gone, there were too many.
        """
        self._hear_late_writers(kind)
        with self._lock:
            lane = self._lanes.get(kind)
            if lane is None:
                return []
            begin = since.ends.get(kind, 0)
            gone = lane.start - begin
            events = lane.since(begin)
        if gone > 0 and since is not BEGINNING:
            raise HarnessError(f"{gone} {kind.__name__} events of this window are not kept")
        found = [event for event in events if isinstance(event, kind)]
        if source is not None:
            found = [event for event in found if event.source == source]
        return sorted(found, key=_when)

    def since(self, mark: Mark = BEGINNING) -> list[Event]:
        """Return what is kept of all kinds, in the order of time."""
        self._hear_late_writers()
        with self._lock:
            lanes = [lane.since(mark.ends.get(kind, 0)) for kind, lane in self._lanes.items()]
        return sorted((event for lane in lanes for event in lane), key=_when)

    def gone(self) -> int:
        """Return how many events are not kept any more."""
        with self._lock:
            return sum(lane.start for lane in self._lanes.values())

    def wait(
        self,
        kind: type[E],
        deadline: Deadline,
        accept: Callable[[E], bool] = lambda _: True,
        *,
        since: Mark | None = None,
        lost: Callable[[], HarnessError | None] = lambda: None,
    ) -> E:
        """Return the first event of a kind that is accepted, since a mark, or from now on.

        :param lost: asked as the stream's own.
        :raises DeadlineExpired: none came; its evidence is the last one of the kind.
        :raises HarnessError: what the stream's ``lost`` says, or this one.
        """
        seen = (self.mark_of(kind) if since is None else since).ends.get(kind, 0)
        last: E | None = None
        while True:
            late = self._hear_late_writers(kind)
            with self._lock:
                wakes = self._wakes
                lane = self._lanes.get(kind)
                new = lane.since(seen) if lane else []
                seen = lane.end if lane else 0
            for event in new:
                assert isinstance(event, kind)
                if accept(event):
                    return event
                last = event
            if new:
                continue
            if error := self._lost() or lost():
                raise error
            seconds = deadline.check(f"last seen: {last}" if last else None)
            self._sleep(kind, seen, wakes, min(seconds, LATE_SECONDS) if late else seconds)

    def _sleep(self, kind: type[Event], seen: int, wakes: int, seconds: float) -> None:
        """Wait for an event of a kind, or a wake, beyond those that the caller has seen."""

        def news() -> bool:
            lane = self._lanes.get(kind)
            return self._wakes != wakes or (lane is not None and lane.end != seen)

        with self._lock:
            self._awaited[kind] += 1
            try:
                self._changed.wait_for(news, seconds)
            finally:
                self._awaited[kind] -= 1

    def _hear_late_writers(self, kind: type[Event] | None = None) -> bool:
        """Have those write who write a kind late, or any; return whether there are some."""
        late = [write_new for write_new, kinds in self._late if kind is None or kind in kinds]
        for write_new in late:
            write_new()
        return bool(late)


class Writer:
    """An observer's pen: the stream that it writes to, and its name there.

    A model writes into a stream of its own until it joins a machine's.
    """

    __slots__ = ("source", "stream")

    def __init__(self, source: str, stream: Stream | None = None):
        self.source = source
        self.stream = stream or Stream()

    def join(self, stream: Stream, source: str) -> None:
        """Write into another stream from here on, under another name."""
        self.stream, self.source = stream, source


def _when(event: Event) -> int:
    return event.when
