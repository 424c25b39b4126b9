"""From what a test raised to the verdict that it stands for."""

from __future__ import annotations

import functools
import sysconfig
import traceback
from pathlib import Path
from typing import Final

import harness
from harness.errors import HarnessError, Verdict

_NOT_TESTS: Final = (
    Path(str(harness.__file__)).parent,
    *(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib")),
)
"""Where code lies whose assertions are about itself, and say nothing about a guest."""


def verdict_of(error: BaseException, *, about_guest: bool) -> Verdict:
    """Return the verdict of a test that ended with ``error``.

    :param about_guest: whether the test has a guest: then a failed assertion of its is the
        kernel's failure, and otherwise ours.
    """
    if isinstance(error, HarnessError):
        return error.verdict
    if isinstance(error, BaseExceptionGroup):  # of several fixtures, at a test's end
        verdicts = [verdict_of(item, about_guest=about_guest) for item in error.exceptions]
        return functools.reduce(graver, verdicts)
    if type(error).__name__ == "Failed":  # pytest's own, which need not be installed
        if str(error).startswith("Timeout"):
            # pytest-timeout, the last line of defence: nothing tells what was waited for.
            return Verdict.TIME_OUT
        # pytest.raises that saw nothing: what had to be refused was not; or pytest.fail.
        return Verdict.KERNEL_FAILURE if about_guest else Verdict.HARNESS_FAILURE
    if isinstance(error, AssertionError) and about_guest and not _is_of_harness(error):
        return Verdict.KERNEL_FAILURE
    return Verdict.HARNESS_FAILURE


def _is_of_harness(error: AssertionError) -> bool:
    """Whether it was raised in the harness, or in a library that it uses, and not in a test."""
    frames = traceback.extract_tb(error.__traceback__)
    where = Path(frames[-1].filename) if frames else None
    return where is not None and any(where.is_relative_to(place) for place in _NOT_TESTS)


_GRAVITY = [
    Verdict.PASS,
    Verdict.MISSING_REQUIREMENT,
    Verdict.TIME_OUT,
    Verdict.KERNEL_FAILURE,
    Verdict.HARNESS_FAILURE,
    Verdict.USAGE_ERROR,
]


def graver(one: Verdict, other: Verdict) -> Verdict:
    """Return the one of two verdicts that says less good: setup, call and teardown each have one.

    A failing harness outweighs a failing kernel, because then nothing is known about the kernel.
    """
    return max(one, other, key=_GRAVITY.index)
