"""How much slower than the reference this machine is right now: what time-outs are stretched by."""

from __future__ import annotations

import os
import time
from typing import Final

from harness.host.deadline import SLOWDOWN_VARIABLE, timeout_factor

REFERENCE_SECONDS: Final = 0.004
"""What the sample took on the machine that the time-outs were chosen on, alone on its core."""

_STEPS: Final = 100_000
_TRIES: Final = 5


def measure_slowdown(workers: int = 1) -> float:
    """Return the factor by which time-outs have to be stretched here, at least 1.

    A fixed piece of work is timed, and the median is compared with the reference. More workers than
    CPUs divide them further.
    """
    times = sorted(_sample() for _ in range(_TRIES))
    slower = times[_TRIES // 2] / REFERENCE_SECONDS
    crowded = workers / len(os.sched_getaffinity(0))
    return max(1.0, slower) * max(1.0, crowded)


def _sample() -> float:
    began = time.perf_counter()
    sum(number * number for number in range(_STEPS))
    return time.perf_counter() - began


def stretch_timeouts(workers: int = 1) -> float:
    """Measure, and have this process and its children stretch their time-outs; return the factor.

    What the user has set in ``IMSH_TIMEOUT_FACTOR`` stays.

    :raises ConfigError: that is not a number above zero.
    """
    if os.environ.get(SLOWDOWN_VARIABLE):
        return timeout_factor()
    factor = measure_slowdown(workers)
    os.environ[SLOWDOWN_VARIABLE] = f"{factor:.2f}"
    return factor
