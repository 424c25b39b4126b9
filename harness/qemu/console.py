"""The guest's serial console: always read, searched for what is awaited and for what is fatal.

QEMU itself writes the capture file (``logfile=`` of the character device), so the record is
complete even when the harness is killed. This module sees the same bytes through a socket.
"""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from harness.errors import DeadlineExpired, HarnessError
from harness.events.stream import BEGINNING, Event, Stream, now
from harness.host.deadline import Deadline

TAIL_LINES: Final = 40
"""Lines that an error carries."""

LONGEST_LINE: Final = 8192
"""Characters without a line end after which one is assumed; the kernel's lines are below 1100."""

LAST_WORDS_SECONDS: Final = 0.5
"""How long a fatal line is held back so that the report of the kernel behind it is complete."""

_LAST_LINE: Final = re.compile(r"---\[ end ")
_CONTROL: Final = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|c)|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class ConsoleLine(Event):
    """A line that the guest has printed, without control characters."""

    LIMIT: ClassVar[int] = 1 << 20
    """What a wait that begins late can search; the capture file has all of them."""

    text: str

    def held(self) -> int:
        """Return the bytes that this takes."""
        return self.BYTES + sys.getsizeof(self.text)

    def __str__(self) -> str:
        return self.text


class Console:
    """What the guest has printed. Made by :func:`watched_console`."""

    def __init__(
        self,
        connection: socket.socket,
        alarm: Callable[[str], str | None],
        on_alarm: Callable[[str, str], None],
        on_end: Callable[[], None],
        events: Stream,
    ):
        self._connection = connection
        self._alarm = alarm
        self._on_alarm = on_alarm
        self._on_end = on_end
        self._events = events
        self._partial = ""
        self._ended = False
        self._failure: BaseException | None = None

    def tail(self, lines: int = TAIL_LINES) -> str:
        """Return the last lines."""
        return "\n".join(self.text().splitlines()[-lines:])

    def text(self) -> str:
        """Return all lines that are kept, and what there is of the next one."""
        lines = [line.text for line in self._events.of(ConsoleLine)]
        return "\n".join([*lines, self._partial])

    def send(self, text: str) -> None:
        """Type on the console.

        :raises HarnessError: QEMU has ended.
        """
        try:
            self._connection.sendall(text.encode())
        except OSError as error:
            raise HarnessError("the console is closed: QEMU has ended") from error

    def wait_for(self, pattern: str, deadline: Deadline) -> re.Match[str]:
        """Return the match of a regular expression in a line, now or as soon as there is one.

        :raises DeadlineExpired: the tail is its evidence.
        :raises HarnessError: the machine was lost, or the console ended.
        """
        wanted = re.compile(pattern)

        def ended() -> HarnessError | None:
            if not self._ended:
                return None
            return HarnessError(f"the console ended before {deadline.what}", evidence=self.tail())

        try:
            line = self._events.wait(
                ConsoleLine,
                deadline,
                lambda line: wanted.search(line.text) is not None,
                since=BEGINNING,
                lost=ended,
            )
        except DeadlineExpired:
            raise deadline.error(self.tail()) from None
        match = wanted.search(line.text)
        assert match
        return match

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as error:
            self._failure = error
        finally:
            # First the reason, so that nobody who waits is told of the end without it.
            self._on_end()
            self._ended = True
            self._events.wake()

    def _read(self) -> None:
        alarm: tuple[str, str, float] | None = None  # kind, line, time to tell
        while True:
            self._connection.settimeout(max(0.0, alarm[2] - time.monotonic()) if alarm else None)
            try:
                data = self._connection.recv(65536)
            except (TimeoutError, BlockingIOError):
                data = None
            except OSError:
                data = b""
            complete = False
            for line in self._take(data) if data else ():
                if alarm is None and (kind := self._alarm(line)):
                    alarm = (kind, line, time.monotonic() + LAST_WORDS_SECONDS)
                complete = complete or bool(_LAST_LINE.search(line))
            if alarm and (complete or not data or time.monotonic() >= alarm[2]):
                self._on_alarm(alarm[0], alarm[1])
                alarm = None
            if data == b"":
                return

    def _take(self, data: bytes) -> list[str]:
        text = self._partial + data.decode(errors="replace")
        *lines, partial = text.split("\n")
        if len(partial) > LONGEST_LINE:
            lines.append(partial)
            partial = ""
        lines = [_CONTROL.sub("", line) for line in lines]
        for line in lines:
            self._events.write(ConsoleLine(now(), "console", line))
        self._partial = partial
        return lines


@contextlib.contextmanager
def watched_console(
    connection: socket.socket,
    *,
    alarm: Callable[[str], str | None],
    on_alarm: Callable[[str, str], None],
    on_end: Callable[[], None],
    events: Stream,
) -> Iterator[Console]:
    """Hold a console that is read by a thread of its own, over a socket that it owns and closes.

    :param alarm: says what kind of disaster a line announces, or None.
    :param on_alarm: called by the reader with kind and line, once the kernel's report is complete.
    :param on_end: called by the reader when QEMU has closed its end.
    :param events: the stream into which the lines are written.
    """
    console = Console(connection, alarm, on_alarm, on_end, events)
    thread = threading.Thread(target=console._run, name="console", daemon=True)
    thread.start()
    try:
        yield console
    finally:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        thread.join()
        connection.close()
        if console._failure:
            raise console._failure
