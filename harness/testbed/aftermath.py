"""What a test has to leave behind, whatever it was about: nothing.

A guest that passes every assertion of a test may still have answered an interrupt twice, or kept a
remapping entry. So this is looked at after each test, without being asked for; a test that leaves
something on purpose says so: ``@pytest.mark.leaves("events")``.

Before the driver of a function is unbound, the device is quiet and the audit finds nothing; after
it, no late answer has come, none of the function's IRTEs is left, and every one that changed was
invalidated. Of the guest as a whole, the
kernel's log is clean and the remapping unit has recorded no fault.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Collection, Iterator
from typing import Final

from harness.errors import CheckFailed, DeadlineExpired
from harness.guest.control import ControlError
from harness.host.deadline import Deadline
from harness.spec.vtd import FaultStatus
from harness.testbed.plugged import PluggedFunction

SETTLE_SECONDS: Final = 2.0
"""How long events that are on their way may take at a test's end."""


class Leftover(enum.StrEnum):
    """What a test may leave behind, if it says so."""

    EVENTS = "events"
    """Interrupts that are outstanding, or went wrong."""
    AUDIT = "audit"
    """IRTEs, the guest's list and the stores disagree."""
    STALE = "stale"
    """IRTEs that were changed and not invalidated."""
    ENTRIES = "entries"
    """IRTEs of a function that has no driver any more."""


def check_settled(function: PluggedFunction, leaves: Collection[Leftover]) -> None:
    """Look at a function whose driver is still bound, or was unbound by the test itself.

    :raises CheckFailed: the test left events, or the audit finds something.
    """
    ledger = function.model.ledger
    if Leftover.EVENTS not in leaves:
        try:
            ledger.wait_settled(Deadline(SETTLE_SECONDS, "quiet"))
        except DeadlineExpired:
            function.check_alive()
        ledger.assert_quiet()
    if Leftover.AUDIT not in leaves and function.is_remapped:
        try:
            function.check_audit()
        except ControlError as error:
            if error.errno != errno.ENODEV:  # the test has unbound the driver
                raise


def check_gone(function: PluggedFunction, leaves: Collection[Leftover]) -> None:
    """Look at a function whose driver has just been unbound.

    :raises CheckFailed: an answer came late, or IRTEs are left.
    """
    if Leftover.EVENTS not in leaves:
        function.model.ledger.assert_quiet()
    if Leftover.ENTRIES not in leaves and function.is_remapped and (left := function.irtes()):
        raise CheckFailed(
            f"{len(left)} IRTEs of {function.slot} are left although its driver is unbound",
            evidence="\n".join(f"{index}: {entry}" for index, entry in left.items()),
        )


def queue_errors(status: FaultStatus) -> Iterator[str]:
    """Say which errors of its invalidation queue a unit has recorded."""
    if status.invalidation_queue:
        yield "invalidation queue error (IQE): a descriptor or the tail was not valid"
    if status.invalidation_completion:
        yield "invalidation completion error (ICE): a device answered what was not asked"
    if status.invalidation_timeout:
        yield "invalidation time-out error (ITE): a device did not answer"
