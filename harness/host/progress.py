"""Telling a human how long steps go on.

A step says that it begins, shows now and then how far it is, and says how long it took. On a
terminal the state is one line that is overwritten; elsewhere (a CI log) each state is a line of
its own, less often.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, TextIO

_TERMINAL_INTERVAL: Final = 0.5
_LOG_INTERVAL: Final = 5.0
_ERASE_LINE: Final = "\r\x1b[K"


class Progress:
    """Writes about steps to a stream; safe to use from several threads.

    :param stream: where to; None for a silent one.
    :param interval: seconds between two states of a step; by default by the kind of stream.
    """

    def __init__(self, stream: TextIO | None, *, interval: float | None = None):
        self._stream = stream
        self._overwrite = stream is not None and stream.isatty()
        self._interval = interval or (_TERMINAL_INTERVAL if self._overwrite else _LOG_INTERVAL)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def step(self, what: str, state: Callable[[], str] | None = None) -> Iterator[None]:
        """Hold a step: ``what`` is going on inside the ``with`` block.

        ``state`` says how far it is; it is called on a thread of the step's own and may return "".
        """
        began = time.monotonic()
        self._line(f"{what} ...")
        stop = threading.Event()
        ticker = threading.Thread(
            target=self._tick, args=(what, state or (lambda: ""), began, stop), daemon=True
        )
        if self._stream is not None:
            ticker.start()
        outcome = "failed after"
        try:
            yield
            outcome = "done in"
        except KeyboardInterrupt:
            outcome = "given up after"
            raise
        finally:
            stop.set()
            if self._stream is not None:
                ticker.join()
            self._line(f"{what}: {outcome} {time.monotonic() - began:.1f} s")

    def _tick(
        self, what: str, state: Callable[[], str], began: float, stop: threading.Event
    ) -> None:
        while not stop.wait(self._interval):
            seconds = f"{time.monotonic() - began:.0f} s"
            text = f"{what}: {', '.join(filter(None, [state(), seconds]))}"
            if self._overwrite:
                self._write(f"{_ERASE_LINE}{text}")
            else:
                self._line(text)

    def _line(self, text: str) -> None:
        self._write(f"{_ERASE_LINE if self._overwrite else ''}{text}\n")

    def _write(self, text: str) -> None:
        if self._stream is not None:
            with self._lock:
                self._stream.write(text)
                self._stream.flush()
