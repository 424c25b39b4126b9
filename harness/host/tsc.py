# Ref: Intel SDM Vol. 2B, RDTSC; proc_cpuinfo(5)
"""The time stamp counter of this machine, which is the guest's too where QEMU emulates its CPUs."""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

_RDTSC: Final = bytes.fromhex("0f31 48c1e220 4809d0 c3")
"""A function: rdtsc; shl $32, %rdx; or %rdx, %rax; ret."""

_SPAN_NS: Final = 20_000_000
_TRIES: Final = 20


class _Reading(NamedTuple):
    width: int
    """Nanoseconds that the clock and the counter were read within."""
    ns: int
    ticks: int


@functools.cache
def tsc_khz(listing: Path = Path("/proc/cpuinfo")) -> int | None:
    """Return the counter's rate to four or five digits, measured once against the monotonic clock.

    :return: ``None`` where it is of no use: another architecture, or a rate that is not constant.
    """
    if platform.machine() != "x86_64" or "constant_tsc" not in listing.read_text().split():
        return None
    with mmap.mmap(-1, len(_RDTSC), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(_RDTSC)
        code = ctypes.c_char.from_buffer(page)
        rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(code))
        first = _read(rdtsc)
        while time.monotonic_ns() < first.ns + _SPAN_NS:
            pass
        last = _read(rdtsc)
        del code  # the page cannot be closed while it is referred to
    return round((last.ticks - first.ticks) * 10_000 / (last.ns - first.ns)) * 100


def _read(rdtsc: Callable[[], int]) -> _Reading:
    """Read clock and counter together, as closely as it goes: this process may be preempted."""

    def once() -> _Reading:
        before = time.monotonic_ns()
        ticks = rdtsc()
        after = time.monotonic_ns()
        return _Reading(after - before, (before + after) // 2, ticks)

    return min(once() for _ in range(_TRIES))
