"""Signals become one KeyboardInterrupt in the main thread: ``finally`` is the only clean-up."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Final

HANDLED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The process was told to end; ``number`` is the signal, for the exit status 128 + number."""

    def __init__(self, number: signal.Signals):
        super().__init__(f"ended by {number.name}")
        self.number = number


@contextlib.contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """While held, the first of SIGINT, SIGTERM and SIGHUP raises :class:`Interrupted`.

    Later ones are dropped: a second one would cut the clean-up short and leave processes behind.
    Main thread only, as the interpreter demands.
    """
    told = False

    def tell(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if not told:
            told = True
            raise Interrupted(signal.Signals(number))

    with contextlib.ExitStack() as stack:
        for number in HANDLED:
            stack.callback(signal.signal, number, signal.signal(number, tell))
        yield
