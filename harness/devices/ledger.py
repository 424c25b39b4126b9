"""The ledger of events: which interrupts were raised, and what became of each.

Every interrupt that the function raises is an :class:`Event` with a sequence number. The guest's
handler reads the number from the interrupt's event slot and answers with it, so that a lost,
doubled or misdirected interrupt is not a difference of two counters but a name.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import itertools
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Final

from harness.errors import CheckFailed, DeadlineExpired
from harness.events.ring import Ring
from harness.events.stream import Event as StreamEvent
from harness.events.stream import Writer, now
from harness.host.deadline import Deadline
from harness.spec.interrupt import InterruptName, Store

EVENT_BYTES: Final = 512
"""What an event takes in memory, with its reason and its places in the ledger."""
HISTORY: Final = (32 << 20) // EVENT_BYTES
"""Events that are remembered after they have ended."""
MOST_UNANSWERED: Final = (32 << 20) // EVENT_BYTES
"""Events that may be out; beyond that the oldest is given up, as lost."""
FINDING_BYTES: Final = 256
"""What a finding takes in memory, without its text."""
FINDINGS_LIMIT: Final = 4 << 20
"""Bytes of findings that are kept; a guest gone wild must not fill the host's memory."""
SHOWN: Final = 20
"""Events and findings that an error lists."""


_name: Final = functools.lru_cache(maxsize=8192)(InterruptName)
"""Names of one function's interrupts, made once: each access to an event slot asks for one."""


class Fate(enum.StrEnum):
    """What became of an event on its way out of the function."""

    RAISED = "raised"
    """Not yet decided."""
    PENDING = "pending"
    """Held behind a mask; it goes out once on unmask."""
    SENT = "sent"
    """The message left the function, or the client's eventfd was signalled."""
    BLOCKED = "blocked"
    """The message was refused: bus mastering, source id, or interrupt remapping."""
    MERGED = "merged"
    """The interrupt was pending already: one pending bit stands for both."""
    DISABLED = "disabled"
    """The store was off, or did not grant this interrupt."""
    DROPPED = "dropped"
    """Forgotten: by a reset, with its store or its work descriptor, or because too many are out."""


_TRANSITIONS: Final = {
    Fate.RAISED: {
        Fate.PENDING,
        Fate.MERGED,
        Fate.SENT,
        Fate.BLOCKED,
        Fate.DISABLED,
        Fate.DROPPED,
    },
    Fate.PENDING: {Fate.SENT, Fate.BLOCKED, Fate.DROPPED},
    Fate.SENT: {Fate.BLOCKED, Fate.DROPPED},
    Fate.BLOCKED: set[Fate](),
    Fate.MERGED: set[Fate](),
    Fate.DISABLED: set[Fate](),
    Fate.DROPPED: set[Fate](),
}
"""What may follow."""


@dataclass(slots=True, eq=False)
class Event:
    """One raised interrupt. Written by the ledger alone; read it after a wait."""

    sequence: int
    """Number of the event, unique in its function and never 0."""
    interrupt: InterruptName
    fate: Fate = Fate.RAISED
    reason: str = ""
    """Why it was blocked, disabled, merged or dropped."""
    cpu: int | None = None
    """Linux CPU number from which it was answered; None until then."""
    raised_at: int = field(default_factory=now)
    """Nanoseconds of the monotonic clock."""
    answered_at: int | None = None
    """Nanoseconds of the monotonic clock; None until then."""

    @property
    def answered(self) -> bool:
        """Whether the guest's handler has answered it."""
        return self.answered_at is not None

    @property
    def store(self) -> Store:
        """Store of the interrupt."""
        return self.interrupt.store

    @property
    def index(self) -> int:
        """Index in the store."""
        return self.interrupt.index

    def __str__(self) -> str:
        state = f"answered by CPU {self.cpu}" if self.answered else self.fate.value
        return f"event {self.sequence} on {self.interrupt}, {state}" + (
            f" ({self.reason})" if self.reason else ""
        )


@dataclass(frozen=True, slots=True)
class Step(StreamEvent):
    """What an event has come to, as it stands in the stream."""

    LIMIT: ClassVar[int] = 16 << 20
    BYTES: ClassVar[int] = 200

    sequence: int
    interrupt: InterruptName
    fate: Fate
    cpu: int | None
    """Linux CPU number of the handler that answered; None: it was not that."""
    reason: str

    def held(self) -> int:
        """Return the bytes that this takes."""
        return self.BYTES + len(self.reason)

    def __str__(self) -> str:
        state = self.fate.value if self.cpu is None else f"answered by CPU {self.cpu}"
        return f"event {self.sequence} on {self.interrupt} {state}" + (
            f" ({self.reason})" if self.reason else ""
        )


class FindingKind(enum.StrEnum):
    """What went wrong with an interrupt."""

    LOST = "lost"
    """It left the function and no handler answered in time."""
    DOUBLED = "doubled"
    """A handler ran with nothing outstanding on its interrupt, or answered the same event twice."""
    MISDIRECTED = "misdirected"
    """An event was answered on another interrupt's slot."""
    STRAY = "stray"
    """An answer names an event that was never handed out, or that was blocked or dropped."""


@dataclass(frozen=True, slots=True)
class Finding(StreamEvent):
    """One thing that went wrong, as a sentence."""

    kind: FindingKind
    interrupt: InterruptName
    sequence: int
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class Ledger:
    """Events of one function, by interrupt and by number. Any thread may call any method.

    :param writer: writes each step of an event, and what goes wrong, into the stream.
    """

    def __init__(self, writer: Writer | None = None) -> None:
        self._writer = writer or Writer("ledger")
        self.check_peers: Callable[[], None] = lambda: None
        """Raises what has ended: the server, the emulator, the guest. Whoever plugs in sets it."""
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._live: dict[int, Event] = {}  # raised and not yet ended, by sequence number
        # Sent and unanswered, oldest first, by sequence number: all, and those of each interrupt.
        # These are ordered dictionaries because they end in any order: a plain one is slow to find
        # its first item when many before it have been taken out.
        self._sent: OrderedDict[int, Event] = OrderedDict()
        self._slots: dict[InterruptName, OrderedDict[int, Event]] = {}
        self._pending: dict[InterruptName, Event] = {}
        self._history: OrderedDict[int, Event] = OrderedDict()  # ended, by sequence number
        self._findings: Ring[Finding] = Ring(FINDINGS_LIMIT)
        self._counts: Counter[Fate] = Counter()
        self._answers = 0

    # The function's side.

    def open(self, store: Store, index: int) -> Event:
        """Return a new event, not yet decided."""
        with self._lock:
            # The number is 32 bits wide in the event slot, and 0 stands for "none".
            sequence = next(self._numbers) & 0xFFFFFFFF or next(self._numbers) & 0xFFFFFFFF
            event = Event(sequence, _name(store, index))
            self._live[sequence] = event
            self._counts[Fate.RAISED] += 1
            self._write(event)
            return event

    def settle(self, event: Event, fate: Fate, reason: str = "") -> bool:
        """Take note of what became of an event; False when that comes too late to matter.

        :raises ValueError: ``fate`` cannot follow the event's present one.
        """
        with self._lock:
            if event.fate is Fate.DROPPED:
                return False
            if fate not in _TRANSITIONS[event.fate]:
                raise ValueError(f"{event}: cannot become {fate}")
            if event.answered:  # only a late verdict can come here
                text = f"{event}, although its message was refused: {reason}"
                self._find(FindingKind.STRAY, event.interrupt, event.sequence, text)
                return False
            self._move(event, fate, reason)
            return True

    def _move(self, event: Event, fate: Fate, reason: str) -> None:
        key = event.interrupt
        if event.fate is Fate.SENT:
            self._take_back(event)
        elif event.fate is Fate.PENDING:
            del self._pending[key]
        event.fate, event.reason = fate, reason
        self._counts[fate] += 1
        self._write(event)
        if fate is Fate.SENT:
            self._sent[event.sequence] = event
            if (slot := self._slots.get(key)) is None:
                slot = self._slots[key] = OrderedDict()
            slot[event.sequence] = event
            if len(self._sent) > MOST_UNANSWERED:
                self._give_up(next(iter(self._sent.values())))
        elif fate is Fate.PENDING:
            self._pending[key] = event
        else:
            self._end(event)

    def _write(self, event: Event) -> None:
        writer = self._writer
        writer.stream.write(
            Step(
                now(),
                writer.source,
                event.sequence,
                event.interrupt,
                event.fate,
                event.cpu,
                event.reason,
            )
        )

    def _take_back(self, event: Event) -> None:
        del self._sent[event.sequence]
        del self._slots[event.interrupt][event.sequence]

    def _give_up(self, event: Event) -> None:
        self._find_lost([event])
        self._move(event, Fate.DROPPED, f"{MOST_UNANSWERED} newer ones are unanswered")

    def _end(self, event: Event) -> None:
        del self._live[event.sequence]
        self._history[event.sequence] = event
        if len(self._history) > HISTORY:
            self._history.popitem(last=False)

    def drop_all(self, reason: str) -> list[Event]:
        """Forget every event that has not ended, and return them."""
        with self._lock:
            dropped = list(self._live.values())
            for event in dropped:
                self._move(event, Fate.DROPPED, reason)
            return dropped

    def pending(self, store: Store, index: int) -> Event | None:
        """Return the event that waits behind this interrupt's mask."""
        with self._lock:
            return self._pending.get(_name(store, index))

    # The guest's side.

    def oldest(self, store: Store, index: int) -> int:
        """Return the number of the oldest unanswered event sent on an interrupt, 0 for none."""
        with self._lock:
            slot = self._slots.get(_name(store, index))
            return next(iter(slot)) if slot else 0

    @property
    def unanswered(self) -> int:
        """Events sent and not yet answered."""
        return len(self._sent)

    def answer(self, store: Store, index: int, sequence: int, cpu: int) -> Event | None:
        """Take a handler's answer; return the event it ends, None when it is a finding instead."""
        interrupt = _name(store, index)
        with self._lock:
            event = self._live.get(sequence)
            if event is None or event.fate is not Fate.SENT or event.interrupt != interrupt:
                self._find_wrong_answer(event, interrupt, sequence, cpu)
                return None
            event.answered_at = now()
            event.cpu = cpu
            self._write(event)
            self._take_back(event)
            self._answers += 1
            self._end(event)
            return event

    def _find_wrong_answer(
        self, event: Event | None, interrupt: InterruptName, sequence: int, cpu: int
    ) -> None:
        where = f"{interrupt} (CPU {cpu})"
        if event is None:  # ended, or never there
            event = self._history.get(sequence)
        if sequence == 0:
            kind, text = FindingKind.DOUBLED, f"{where}: the handler ran with nothing outstanding"
        elif event is None:
            kind, text = FindingKind.STRAY, f"{where}: answered event {sequence}, which is unknown"
        elif event.interrupt != interrupt:
            kind, text = FindingKind.MISDIRECTED, f"{where}: answered {event}"
        elif event.answered:
            kind, text = FindingKind.DOUBLED, f"{where}: answered again: {event}"
        else:
            kind, text = FindingKind.STRAY, f"{where}: answered {event}"
        self._find(kind, interrupt, sequence, text)

    def _find(self, kind: FindingKind, interrupt: InterruptName, sequence: int, text: str) -> None:
        writer = self._writer
        finding = Finding(now(), writer.source, kind, interrupt, sequence, text)
        self._findings.append(finding, FINDING_BYTES + len(text))
        writer.stream.write(finding)

    # The test's side.

    @contextlib.contextmanager
    def blaming_the_guest(self) -> Iterator[None]:
        """Hold a check of the guest: when it fails, what else has ended is raised in its place.

        :raises Exception: as :attr:`check_peers`.
        """
        try:
            yield
        except CheckFailed:
            self.check_peers()
            raise

    def wait_answered(self, events: Event | Iterable[Event], deadline: Deadline) -> None:
        """Wait until every event is answered.

        :raises CheckFailed: an event ended without an answer, or ``deadline`` passed: then those
            that left it and were not answered are also kept as findings, lost.
        :raises Exception: that is no wonder; see :attr:`check_peers`.
        """
        with self.blaming_the_guest():
            self._wait_answered([events] if isinstance(events, Event) else list(events), deadline)

    def _wait_answered(self, wanted: list[Event], deadline: Deadline) -> None:
        def answered() -> bool:
            wanted[:] = _not_yet_answered(wanted)
            return not wanted

        try:
            self._wait_until(answered, deadline)
        except DeadlineExpired:
            with self._lock:
                self._find_lost(wanted)
            raise CheckFailed(
                f"{deadline.what}: {len(wanted)} interrupts not answered "
                f"in {deadline.seconds:.1f} s",
                evidence=_list(wanted),
            ) from None

    def wait_settled(self, deadline: Deadline) -> None:
        """Wait until no event is out.

        :raises DeadlineExpired: some are.
        """
        self._wait_until(lambda: not self._sent, deadline)

    def _wait_until(self, condition: Callable[[], bool], deadline: Deadline) -> None:
        """Ask again, under the lock, after each step of an event."""
        stream = self._writer.stream
        while True:
            seen = stream.mark_of(Step)
            with self._lock:
                if condition():
                    return
            stream.wait(Step, deadline, since=seen)

    def _find_lost(self, events: list[Event]) -> None:
        for event in events:
            if event.fate is Fate.SENT and not event.answered:
                text = f"{event.interrupt}: event {event.sequence} was sent and never answered"
                self._find(FindingKind.LOST, event.interrupt, event.sequence, text)

    def mark(self) -> int:
        """Return a point in the list of findings, for :meth:`findings` and :meth:`assert_quiet`."""
        with self._lock:
            return self._findings.end

    def findings(self, since: int = 0) -> list[Finding]:
        """Return what went wrong since a mark, in order of time: the newest, if it was a lot."""
        with self._lock:
            return self._findings.since(since)

    def assert_quiet(self, since: int = 0) -> None:
        """Assert that nothing is outstanding and that nothing went wrong since a mark.

        :raises CheckFailed: it names each event that is still out or pending, and each finding.
        :raises Exception: that is no wonder; see :attr:`check_peers`.
        """
        with self.blaming_the_guest():
            self._assert_quiet(since)

    def _assert_quiet(self, since: int) -> None:
        with self._lock:
            found = self._findings.end - since
            live = list(self._live.values())
            shown = [str(finding) for finding in self._findings.since(since)[:SHOWN]]
        if found or live:
            if found > len(shown):
                shown.append(f"and {found - len(shown)} more findings")
            shown += [f"outstanding: {event}" for event in live[:SHOWN]]
            if len(live) > SHOWN:
                shown.append(f"and {len(live) - SHOWN} more outstanding")
            raise CheckFailed(
                f"the device is not quiet: {found + len(live)} points", evidence="\n".join(shown)
            )

    def events(self) -> list[Event]:
        """Return the events that ended, oldest first, and then those that live."""
        with self._lock:
            return [*self._history.values(), *self._live.values()]

    def counts(self) -> dict[str, int]:
        """Return how many events came to each fate, and ``answered``, since the beginning."""
        with self._lock:
            return {fate.value: self._counts[fate] for fate in Fate} | {"answered": self._answers}


def _not_yet_answered(events: list[Event]) -> list[Event]:
    """Return those that may still be answered.

    :raises CheckFailed: some never will.
    """
    waiting = (Fate.RAISED, Fate.PENDING, Fate.SENT)
    if ended := [e for e in events if not e.answered and e.fate not in waiting]:
        raise CheckFailed(
            f"{len(ended)} of {len(events)} interrupts will not be answered",
            evidence=_list(ended),
        )
    return [event for event in events if not event.answered]


def _list(events: list[Event]) -> str:
    shown = [str(event) for event in events[:SHOWN]]
    return "\n".join(shown + ([f"and {len(events) - SHOWN} more"] if len(events) > SHOWN else []))
