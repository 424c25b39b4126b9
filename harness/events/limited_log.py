"""A log that a peer cannot flood."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

BURST: Final = 20
"""Lines that are written in one period."""
PERIOD: Final = 10.0
"""Seconds after which as many more are."""


class LimitedLog:
    """A logger that writes at most ``BURST`` lines in ``PERIOD`` and says what it left out.

    For what a peer brings about as often as it likes. Any thread may use it.
    """

    def __init__(self, logger: logging.Logger):
        self._logger = logger
        self._lock = threading.Lock()
        self._until = 0.0
        self._count = 0

    def log(self, level: int, text: str, *arguments: object) -> None:
        """Log ``text % arguments``, unless there was too much lately."""
        if not self._logger.isEnabledFor(level):
            return
        now = time.monotonic()
        with self._lock:
            left_out = 0
            if now >= self._until:
                left_out = max(0, self._count - BURST)
                self._until, self._count = now + PERIOD, 0
            self._count += 1
            write = self._count <= BURST
        if left_out:
            self._logger.log(level, "... %d lines like these left out ...", left_out)
        if write:
            self._logger.log(level, text, *arguments)
