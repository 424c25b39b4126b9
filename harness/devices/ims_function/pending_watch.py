"""Watching the masks of a mapped array: the one thing about it that no access tells the device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

PERIOD: Final = 0.001
"""Seconds between two looks at the mask bits."""


class PendingWatch:
    """A thread that looks while something is pending, and only then.

    :param wanted: whether anything is pending that could be sent; asked under ``lock``.
    :param look: delivers what is due; must not raise.
    :param lock: held by the caller of :meth:`start`, and while the thread decides to end: an entry
        that becomes pending meanwhile is thus never left without a watch.
    """

    def __init__(self, wanted: Callable[[], bool], look: Callable[[], None], lock: threading.RLock):
        self._wanted = wanted
        self._look = look
        self._lock = lock
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin to watch, if nobody watches yet."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="ims-watch", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        pause = PERIOD
        while not self._stop.wait(pause):
            with self._lock:
                if not self._wanted():
                    self._thread = None
                    return
            began = time.monotonic()
            self._look()
            # Thousands of pending entries take a while: the lock is for others at least as long.
            pause = max(PERIOD, time.monotonic() - began)

    def stop(self) -> None:
        """End the watch; returns when the thread is gone. The lock must not be held."""
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join()
        self._thread = None
