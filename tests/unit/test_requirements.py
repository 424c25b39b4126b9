"""What becomes of a trial, and the trials that every machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import MissingRequirement
from harness.host.requirements import (
    Answer,
    Diagnosis,
    Presence,
    attempt,
    attempt_tool,
    try_disk_space,
)


def fail(error: Exception) -> str:
    raise error


def test_what_a_trial_returns_is_where_the_thing_was_found() -> None:
    assert attempt("x", lambda: "here") == Diagnosis("x", Presence.FOUND, True, "here")


def test_a_trial_that_fails_says_why_and_how_to_mend_it() -> None:
    error = MissingRequirement("it is not there", hint="install it", evidence="one\nlast words")
    assert attempt("x", lambda: fail(error)) == Diagnosis(
        "x", Presence.MISSING, True, "it is not there: last words", "install it"
    )


def test_a_trial_that_breaks_is_described_and_does_not_break_the_doctor() -> None:
    found = attempt("x", lambda: fail(ZeroDivisionError("by nought")))
    assert (found.status, found.detail) == (Presence.MISSING, "ZeroDivisionError: by nought")


@pytest.mark.parametrize(
    ("status", "required", "fatal"),
    [
        (Presence.MISSING, True, True),
        (Presence.MISSING, False, False),
        (Presence.NOT_BUILT, True, False),
        (Presence.NOT_TRIED, True, False),
        (Presence.FOUND, True, False),
    ],
)
def test_only_what_is_required_and_missing_is_fatal(
    status: Presence, required: bool, fatal: bool
) -> None:
    found = attempt("x", lambda: Answer("detail", "hint", status), required=required)
    assert found == Diagnosis("x", status, required, "detail", "hint")
    assert found.is_fatal is fatal


def test_a_tool_that_is_not_in_path_is_named_with_its_package() -> None:
    found = attempt_tool("no-such-tool", package="things")
    assert found.is_fatal
    assert "package things" in str(found.hint)


def test_a_disk_with_room_is_named_with_what_is_free(tmp_path: Path) -> None:
    place = tmp_path / "cache/to/be"
    assert try_disk_space(place, 0).endswith(f" MiB free for {place}")


def test_a_disk_without_room_is_told_how_much_is_needed(tmp_path: Path) -> None:
    with pytest.raises(
        MissingRequirement, match=r"free for .*, 1099511627776 MiB needed"
    ) as caught:
        try_disk_space(tmp_path, 1 << 40)
    assert "IMSH_CACHE" in str(caught.value.hint)
