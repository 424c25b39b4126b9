# Ref: Linux kernel/watchdog.c (watchdog_thresh: a lock-up is soft after twice that; at most 60),
#      kernel/rcu/tree_stall.h (rcu_jiffies_till_stall_check(): at most 300), kernel/hung_task.c
"""The guest kernel's own watchdogs, stretched as our time-outs are.

On a machine that is three times as slow a sound guest has its CPUs for a third of the time: what
the kernel takes for a lock-up then is the host's doing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Watchdog:
    """One of them: what sets it, and to how many seconds."""

    word: str
    """Of imsctl's ``fresh``."""
    boot_word: str
    """Of the kernel's command line."""
    usual: int
    """What kernels have it at."""
    most: int
    """More is refused, or cut."""

    def seconds(self, factor: float) -> int:
        """Return what it is to be set to."""
        return min(self.most, max(self.usual, round(self.usual * factor)))


WATCHDOGS: Final = (
    Watchdog("soft_lockup", "watchdog_thresh", 10, 60),
    Watchdog("rcu_stall", "rcupdate.rcu_cpu_stall_timeout", 21, 300),
    Watchdog("hung_task", "sysctl.kernel.hung_task_timeout_secs", 120, 1 << 20),
)


def boot_words(factor: float) -> tuple[str, ...]:
    """Return the words of a kernel's command line for a machine slower by a factor; none at 1."""
    return tuple(
        f"{each.boot_word}={each.seconds(factor)}"
        for each in WATCHDOGS
        if each.seconds(factor) != each.usual
    )


def fresh_words(factor: float) -> dict[str, int]:
    """Return the words of imsctl's ``fresh`` for a machine slower by a factor."""
    return {each.word: each.seconds(factor) for each in WATCHDOGS}
