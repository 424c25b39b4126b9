"""Where the command's log goes: to standard error, as far as somebody reads there."""

from __future__ import annotations

import logging
import os
import select
from typing import Final

PATIENCE: Final = 0.2
"""Seconds that a reader gets to make room, before lines are left out."""


class LossyHandler(logging.Handler):
    """Writes lines to a file descriptor, and leaves out those for which there is no room.

    A pipe that nobody reads, or a terminal that is held, would else stop whichever thread logs: the
    one that serves a device among them. The descriptor stays its owner's.
    """

    def __init__(self, fd: int):
        super().__init__()
        self._fd = fd
        self._left_out = 0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, and before it how many were left out."""
        try:
            text = self.format(record) + "\n"
            if self._left_out:
                text = f"... {self._left_out} lines left out, nobody read them ...\n" + text
            self._left_out = 0 if self._write(text) else self._left_out + 1
        except Exception:
            self.handleError(record)

    def _write(self, text: str) -> bool:
        data = text.encode(errors="replace")
        # What is writeable takes this much without blocking: pipe(7), PIPE_BUF.
        for start in range(0, len(data), select.PIPE_BUF):
            if not self._poll.poll(0 if self._left_out else PATIENCE * 1000):
                return False
            os.write(self._fd, data[start : start + select.PIPE_BUF])
        return True
