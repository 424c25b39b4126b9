"""What becomes of a trial, and the trials that every machine has."""

from __future__ import annotations

import pytest

from harness.errors import MissingRequirement
from harness.host.requirements import Answer, Diagnosis, Status, attempt, attempt_tool


def fail(error: Exception) -> str:
    raise error


def test_what_a_trial_returns_is_where_the_thing_was_found() -> None:
    assert attempt("x", lambda: "here") == Diagnosis("x", Status.FOUND, True, "here")


def test_a_trial_that_fails_says_why_and_how_to_mend_it() -> None:
    error = MissingRequirement("it is not there", hint="install it", evidence="one\nlast words")
    assert attempt("x", lambda: fail(error)) == Diagnosis(
        "x", Status.MISSING, True, "it is not there: last words", "install it"
    )


def test_a_trial_that_breaks_is_described_and_does_not_break_the_doctor() -> None:
    found = attempt("x", lambda: fail(ZeroDivisionError("by nought")))
    assert (found.status, found.detail) == (Status.MISSING, "ZeroDivisionError: by nought")


@pytest.mark.parametrize(
    ("status", "required", "fatal"),
    [
        (Status.MISSING, True, True),
        (Status.MISSING, False, False),
        (Status.NOT_BUILT, True, False),
        (Status.NOT_TRIED, True, False),
        (Status.FOUND, True, False),
    ],
)
def test_only_what_is_required_and_missing_is_fatal(
    status: Status, required: bool, fatal: bool
) -> None:
    found = attempt("x", lambda: Answer("detail", "hint", status), required=required)
    assert found == Diagnosis("x", status, required, "detail", "hint")
    assert found.is_fatal is fatal


def test_a_tool_that_is_not_in_path_is_named_with_its_package() -> None:
    found = attempt_tool("no-such-tool", package="things")
    assert found.is_fatal
    assert "package things" in str(found.hint)
