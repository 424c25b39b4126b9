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
from typing import Final

from harness.errors import HarnessError
from harness.events.ring import Ring
from harness.host.deadline import Deadline

TAIL_LINES: Final = 40
"""Lines that an error carries."""

KEPT_BYTES: Final = 1 << 20
"""Bytes of lines searched by a wait that begins late; the capture file has all of them."""

LONGEST_LINE: Final = 8192
"""Characters without a line end after which one is assumed; the kernel's lines are below 1100."""

LAST_WORDS_SECONDS: Final = 0.5
"""How long a fatal line is held back so that the report of the kernel behind it is complete."""

_LAST_LINE: Final = re.compile(r"---\[ end ")
_CONTROL: Final = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|c)|[\x00-\x08\x0b-\x1f\x7f]")


class Console:
    """What the guest has printed. Made by :func:`watched_console`."""

    def __init__(
        self,
        connection: socket.socket,
        alarm: Callable[[str], str | None],
        on_alarm: Callable[[str, str], None],
        on_end: Callable[[], None],
    ):
        self._connection = connection
        self._alarm = alarm
        self._on_alarm = on_alarm
        self._on_end = on_end
        self._lines: Ring[str] = Ring(KEPT_BYTES)
        self._partial = ""
        self._ended = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

    def tail(self, lines: int = TAIL_LINES) -> str:
        """Return the last lines."""
        return "\n".join(self.text().splitlines()[-lines:])

    def text(self) -> str:
        """Return all lines that are kept."""
        with self._changed:
            return "\n".join([*self._lines, self._partial])

    def send(self, text: str) -> None:
        """Type on the console.

        :raises HarnessError: QEMU has ended.
        """
        try:
            self._connection.sendall(text.encode())
        except OSError as error:
            raise HarnessError("the console is closed: QEMU has ended") from error

    def wait_for(
        self,
        pattern: str,
        deadline: Deadline,
        *,
        lost: Callable[[], HarnessError | None] = lambda: None,
    ) -> re.Match[str]:
        """Return the match of a regular expression in a line, now or as soon as there is one.

        :param lost: asked whenever something changed; its error ends the wait.
        :raises DeadlineExpired: the tail is its evidence.
        :raises HarnessError: the console ended; or what ``lost`` returned.
        """
        wanted = re.compile(pattern)
        seen = 0
        with self._changed:
            while True:
                for line in self._lines.since(seen):
                    if match := wanted.search(line):
                        return match
                seen = self._lines.end
                if error := lost():
                    raise error
                if self._ended:
                    raise HarnessError(
                        f"the console ended before {deadline.what}", evidence=self.tail()
                    )
                if deadline.expired:
                    raise deadline.error(self.tail())
                self._changed.wait(deadline.remaining())

    def wake(self) -> None:
        """Make every wait ask its ``lost`` again."""
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as error:
            self._failure = error
        finally:
            # First the reason, so that nobody who waits is told of the end without it.
            self._on_end()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

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
        with self._changed:
            for line in lines:
                self._lines.append(line, sys.getsizeof(line))
            self._partial = partial
            if lines:
                self._changed.notify_all()
        return lines


@contextlib.contextmanager
def watched_console(
    connection: socket.socket,
    *,
    alarm: Callable[[str], str | None],
    on_alarm: Callable[[str, str], None],
    on_end: Callable[[], None],
) -> Iterator[Console]:
    """Hold a console that is read by a thread of its own, over a socket that it owns and closes.

    :param alarm: says what kind of disaster a line announces, or None.
    :param on_alarm: called by the reader with kind and line, once the kernel's report is complete.
    :param on_end: called by the reader when QEMU has closed its end.
    """
    console = Console(connection, alarm, on_alarm, on_end)
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
