"""From what a test raised to the verdict that it stands for."""

from __future__ import annotations

from harness.errors import HarnessError, Verdict


def verdict_of(error: BaseException, *, about_guest: bool) -> Verdict:
    """Return the verdict of a test that ended with ``error``.

    :param about_guest: whether the test has a guest: then a failed assertion of its is the
        kernel's failure, and otherwise ours.
    """
    if isinstance(error, HarnessError):
        return error.verdict
    if type(error).__name__ == "Failed" and str(error).startswith("Timeout"):
        # pytest-timeout, the last line of defence: nothing tells what was waited for.
        return Verdict.TIME_OUT
    if isinstance(error, AssertionError) and about_guest:
        return Verdict.KERNEL_FAILURE
    return Verdict.HARNESS_FAILURE


_GRAVITY = [
    Verdict.PASS,
    Verdict.MISSING_REQUIREMENT,
    Verdict.TIME_OUT,
    Verdict.KERNEL_FAILURE,
    Verdict.HARNESS_FAILURE,
]


def graver(one: Verdict, other: Verdict) -> Verdict:
    """Return the one of two verdicts that says less good: setup, call and teardown each have one.

    A failing harness outweighs a failing kernel, because then nothing is known about the kernel.
    """
    return max(one, other, key=_GRAVITY.index)
