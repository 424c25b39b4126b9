"""Whether a machine is alive: the first thing that went wrong is kept, and everybody is told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final

from harness.errors import HarnessError

GRACE_SECONDS: Final = 5.0
"""How long one witness of QEMU's end waits for the one that knows the reason."""


class Vitals:
    """The life of one machine: threads that watch it call :meth:`lose`, users :meth:`check`."""

    def __init__(self) -> None:
        self._error: HarnessError | None = None
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []

    @property
    def error(self) -> HarnessError | None:
        """What the machine was lost to, None while it is alive."""
        return self._error

    def lose(self, error: HarnessError) -> None:
        """Declare the machine lost. Only the first error counts: later ones follow from it."""
        with self._changed:
            if self._error is not None:
                return
            self._error = error
            self._changed.notify_all()
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def check(self) -> None:
        """Do nothing while the machine is alive.

        :raises HarnessError: it was lost; the original error, however late the question.
        """
        if self._error is not None:
            raise self._error.with_traceback(None)

    def wait_lost(self, seconds: float = GRACE_SECONDS) -> HarnessError | None:
        """Return the error as soon as there is one, None when there is none for so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None, seconds)
            return self._error

    @contextlib.contextmanager
    def on_loss(self, listener: Callable[[], None]) -> Iterator[None]:
        """While held, call ``listener`` (on any thread, at once if it is too late) at the loss."""
        with self._changed:
            self._listeners.append(listener)
            lost = self._error is not None
        if lost:
            listener()
        try:
            yield
        finally:
            with self._changed:
                self._listeners.remove(listener)
