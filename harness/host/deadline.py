"""Bounded waiting: every wait in the harness takes a :class:`Deadline`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final, TypeVar

from harness.errors import ConfigError, DeadlineExpired

T = TypeVar("T")

SLOWDOWN_VARIABLE: Final = "IMSH_TIMEOUT_FACTOR"
"""Environment variable that multiplies every time-out, for debug kernels and loaded machines."""


def timeout_factor() -> float:
    """Return the factor that stretches time-outs: ``IMSH_TIMEOUT_FACTOR``, else 1.0.

    :raises ConfigError: the variable is not a number above zero.
    """
    text = os.environ.get(SLOWDOWN_VARIABLE) or "1"
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0.0 < factor < float("inf"):
        raise ConfigError(f"{SLOWDOWN_VARIABLE}={text!r} is not a number above zero")
    return factor


class Deadline:
    """A point in time after which a wait is given up.

    :param seconds: length of the wait, before the time-out factor is applied.
    :param what: what is awaited, for the error message: ``"the guest's login prompt"``.
    """

    def __init__(self, seconds: float, what: str):
        self.seconds = seconds * timeout_factor()
        self.what = what
        self._end = time.monotonic() + self.seconds

    def remaining(self) -> float:
        """Return the seconds left, never below zero."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.remaining() == 0.0

    def error(self, last_seen: str | None = None) -> DeadlineExpired:
        """Return the error to raise when the wait was in vain."""
        return DeadlineExpired(
            f"{self.what}: nothing after {self.seconds:.1f} s", evidence=last_seen
        )

    def check(self, last_seen: str | None = None) -> float:
        """Return the seconds left.

        :raises DeadlineExpired: none are left.
        """
        if left := self.remaining():
            return left
        raise self.error(last_seen)


def wait_until(probe: Callable[[], T | None], deadline: Deadline, *, interval: float = 0.005) -> T:
    """Call ``probe`` until it returns something true, and return that.

    Only for conditions that no signal announces. ``interval`` grows to 50 ms.

    :raises DeadlineExpired: with the last value the probe returned.
    """
    while True:
        if value := probe():
            return value
        left = deadline.check(f"last seen: {value!r}")
        time.sleep(min(interval, left))
        interval = min(interval * 1.5, 0.05)
