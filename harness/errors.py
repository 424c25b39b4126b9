"""The error tree of the harness, and the verdict that each class implies.

    HarnessError                 harness failure
    ├── ConfigError              usage error          a file or an option is wrong; names the place
    ├── ProtocolError            harness failure      a peer broke a wire protocol
    │   └── FramingError         harness failure      no next message (vfio_user.channel)
    ├── LaunchError              harness failure      a process did not start, or ended at once
    ├── MonitorCommandError      harness failure      QEMU refused a command (qemu.qmp)
    ├── SnapshotUnusable         harness failure      QEMU does not take it (qemu.snapshot)
    ├── BuildError               harness failure      a provisioning step failed; names step and log
    │   ├── PatchDoesNotApply    harness failure      a patch of a series does not (build.series)
    │   └── CompileError         harness failure      a tree does not build (build.kbuild)
    ├── GuestLost                kernel failure       the guest hung or went away
    │   ├── GuestPanic           kernel failure       panic or oops seen on the console
    │   └── QemuExited           harness failure      the emulator itself ended
    ├── GuestCommandError        kernel failure       a command in the guest ended with an error
    │   ├── GuestExit            kernel failure       one over SSH, by its status (guest.ssh)
    │   └── ControlError         kernel failure       one of imsctl, by its errno (guest.control)
    ├── CheckFailed              kernel failure       an oracle disagrees with the guest
    ├── DeadlineExpired          time-out             a wait ran out; carries what was last seen
    └── MissingRequirement       missing requirement  this machine lacks it; says how to get it
        └── NotApplicable        missing requirement  no place for a fault (faults.seed)

A class that stands with a module lives there, the others here. Callers decide by class, never by
text. Every error carries its evidence as attributes.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class Verdict(enum.StrEnum):
    """What a run or a test says about the guest kernel. The six never mix."""

    PASS = "pass"
    """The guest gave the positive, distinctive signal that was asked for."""
    KERNEL_FAILURE = "kernel failure"
    """The guest kernel did something wrong: a failed check, a panic, an oops."""
    HARNESS_FAILURE = "harness failure"
    """The harness, QEMU or the host went wrong; nothing is known about the kernel."""
    MISSING_REQUIREMENT = "missing requirement"
    """Something needed is not there; the message says how to get it."""
    TIME_OUT = "time-out"
    """A bounded wait ran out and nothing told why."""
    USAGE_ERROR = "usage error"
    """What was asked for cannot be: a name with a typo, a file with a wrong key."""

    @property
    def exit_status(self) -> int:
        """Exit status of a command that ends with this verdict."""
        return _EXIT_STATUS[self]


_EXIT_STATUS = {
    Verdict.PASS: 0,
    Verdict.KERNEL_FAILURE: 1,
    Verdict.HARNESS_FAILURE: 2,
    Verdict.MISSING_REQUIREMENT: 3,
    Verdict.TIME_OUT: 4,
    Verdict.USAGE_ERROR: 64,  # EX_USAGE of sysexits.h; pytest has meanings of its own up to 5
}


class HarnessError(Exception):
    """Root of every error that the harness raises on purpose.

    :param message: what was attempted and what happened, one sentence.
    :param hint: what the reader can do about it, if anything.
    :param evidence: text that stands behind the message (last console lines, a log's tail, bytes).
    """

    verdict: ClassVar[Verdict] = Verdict.HARNESS_FAILURE

    def __init__(self, message: str, *, hint: str | None = None, evidence: str | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.evidence = evidence

    def __str__(self) -> str:
        parts = [self.message]
        if self.evidence:
            parts.append("\n".join(f"    | {line}" for line in self.evidence.rstrip().splitlines()))
        if self.hint:
            parts.append(f"hint: {self.hint}")
        return "\n".join(parts)


class ConfigError(HarnessError):
    """A recipe, specification or option is wrong; the message names file, line and key."""

    verdict = Verdict.USAGE_ERROR


class ProtocolError(HarnessError):
    """A peer broke a wire protocol (vfio-user, QMP, the control tool's JSON)."""


class LaunchError(HarnessError):
    """A process could not be started or ended before it was ready."""


class BuildError(HarnessError):
    """A provisioning step failed; the message names the step, the evidence is its log's tail."""


class GuestLost(HarnessError):
    """The guest stopped answering for a known reason."""

    verdict = Verdict.KERNEL_FAILURE


class GuestPanic(GuestLost):
    """The guest kernel panicked or oopsed; the evidence is the console."""


class QemuExited(GuestLost):
    """QEMU itself ended while the guest was in use; the evidence is its log."""

    verdict = Verdict.HARNESS_FAILURE


class GuestCommandError(HarnessError):
    """A command in the guest ended with an error."""

    verdict = Verdict.KERNEL_FAILURE


class CheckFailed(HarnessError):
    """An oracle disagrees with what the guest did."""

    verdict = Verdict.KERNEL_FAILURE


class DeadlineExpired(HarnessError):
    """A bounded wait ran out; says what was awaited, the evidence what was last seen."""

    verdict = Verdict.TIME_OUT


class MissingRequirement(HarnessError):
    """This machine lacks something; the hint says how to get it."""

    verdict = Verdict.MISSING_REQUIREMENT
