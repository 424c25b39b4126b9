"""The silent failure of the trap path: what the guest believes in, and the host does not have."""

from __future__ import annotations

from harness.errors import CheckFailed
from harness.hypervisor.trap_path import HostRefusal
from harness.testbed.plugged import STORES, PluggedFunction


def silent_failures(plugged: PluggedFunction) -> list[HostRefusal]:
    """Return the refusals behind interrupts for which the guest's driver has a handler."""
    trap_path = plugged.model.trap_path
    if trap_path is None:
        return []
    return [
        refusal
        for store in STORES
        for interrupt in plugged.control.interrupts(store)
        if interrupt.requested and (refusal := trap_path.missing(store, interrupt.index))
    ]


def check_no_silent_failure(plugged: PluggedFunction) -> None:
    """Hold the guest's belief against what the host has set up.

    :raises CheckFailed: interrupts will never come, and nobody told the guest; each is named, with
        the moment at which the host refused it.
    """
    if failures := silent_failures(plugged):
        raise CheckFailed(
            f"{len(failures)} interrupts will never come, and the guest was not told",
            evidence="\n".join(f"at {failure.time:.6f} s {failure}" for failure in failures),
        )
