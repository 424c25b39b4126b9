"""Many interrupts in a row, as fast as the guest answers: for benchmarks and storms."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.devices.ledger import Event, Fate
from harness.errors import CheckFailed, DeadlineExpired
from harness.events.stream import Event as StreamEvent
from harness.events.stream import Writer, now
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store


@dataclass(frozen=True, slots=True)
class BurstOver(StreamEvent):
    """A burst has come to its end."""

    answered: int
    failed: str
    """The event that ended it early, if one did."""

    def __str__(self) -> str:
        return f"a burst is over: {self.answered} answered {self.failed}".rstrip()


class Burst:
    """Keeps one event in flight on each of some interrupts until ``count`` have been answered.

    The next one is raised by the answer to the one before, on the server's thread: no round trip
    through the test, and no two events that an edge-triggered interrupt could merge into one.
    Nothing else may be raised on these interrupts meanwhile.

    :param blaming: :meth:`~.ledger.Ledger.blaming_the_guest`.
    :param writer: writes its end into the stream.
    """

    def __init__(
        self,
        raise_interrupt: Callable[[Store, int], Event],
        store: Store,
        indices: Sequence[int],
        count: int,
        blaming: Callable[[], contextlib.AbstractContextManager[None]],
        writer: Writer,
    ):
        self.latencies: list[int] = []
        """Nanoseconds from raise to answer of each event, in the order of the answers."""
        self.seconds = 0.0
        """Time from the first raise to the last answer, once it is over."""
        self._raise = raise_interrupt
        self._blaming = blaming
        self._store = store
        self._indices = frozenset(indices)
        self._count = count
        self._to_raise = count
        self._failed: Event | None = None
        self._lock = threading.Lock()
        self._writer = writer
        self._begin = writer.stream.mark_of(BurstOver)
        self._over = False
        self._began = time.monotonic()
        if not self._indices or count < 1:
            raise ValueError("a burst takes at least one interrupt and one event")

    def start(self) -> None:
        """Raise the first event of each interrupt."""
        for index in sorted(self._indices):
            self._raise_next(index)

    def _raise_next(self, index: int) -> None:
        with self._lock:
            if self._to_raise == 0 or self._over:
                return
            self._to_raise -= 1
        self._raise(self._store, index)

    @property
    def over(self) -> bool:
        """Whether it has come to its end, good or bad."""
        return self._over

    def ended(self, event: Event) -> None:
        """Take note that an event was answered or will never be; others' events are ignored."""
        if event.store is not self._store or event.index not in self._indices:
            return
        with self._lock:
            if event.answered_at is None:
                if event.fate is not Fate.MERGED:
                    self._failed = event
                    self._finish()
                return
            self.latencies.append(event.answered_at - event.raised_at)
            if len(self.latencies) == self._count:
                self.seconds = time.monotonic() - self._began
                self._finish()
                return
        self._raise_next(event.index)

    def _finish(self) -> None:
        self._over = True
        failed = str(self._failed or "")
        writer = self._writer
        writer.stream.write(BurstOver(now(), writer.source, len(self.latencies), failed))

    def wait(self, deadline: Deadline) -> float:
        """Wait for the last answer and return the interrupts per second.

        :raises CheckFailed: an event was not sent, or ``deadline`` passed with some unanswered.
        :raises Exception: that is no wonder; see :attr:`~.ledger.Ledger.check_peers`.
        """
        with self._blaming():
            return self._wait(deadline)

    def _wait(self, deadline: Deadline) -> float:
        stream = self._writer.stream
        try:
            stream.wait(BurstOver, deadline, lambda _: self._over, since=self._begin)
        except DeadlineExpired:
            raise CheckFailed(
                f"{deadline.what}: {len(self.latencies)} of {self._count} answered "
                f"in {deadline.seconds:.1f} s"
            ) from None
        finally:
            self._over = True  # nothing more is raised, whatever comes in late
        if self._failed:
            raise CheckFailed(f"a burst on {self._store.name} ended early: {self._failed}")
        return self._count / self.seconds
