"""What a machine must have: tried, never guessed from its looks.

Each trial stands alone. Whatever it runs into is its answer: a broken machine is described, not
fallen over.
"""

from __future__ import annotations

import enum
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, MissingRequirement
from harness.host.process import find_tool


class Presence(enum.StrEnum):
    """What came of a trial."""

    FOUND = "found"
    MISSING = "missing"
    NOT_BUILT = "not built"
    """imsh makes it by itself when it is first needed."""
    NOT_TRIED = "not tried"
    """Something else has to be there first."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a trial has to say when there is more to it than the detail."""

    detail: str
    hint: str | None = None
    status: Presence = Presence.FOUND


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The answer about one requirement."""

    name: str
    status: Presence
    required: bool
    """Whether imsh is of no use without it."""
    detail: str
    """Where or what it is; or why it is not there."""
    hint: str | None = None
    """How to mend it."""

    @property
    def is_fatal(self) -> bool:
        """Whether imsh cannot work on this machine as it is."""
        return self.required and self.status is Presence.MISSING


def attempt(name: str, trial: Callable[[], str | Answer], *, required: bool = True) -> Diagnosis:
    """Return what came of a trial, whatever it raised."""
    try:
        answer = trial()
    except HarnessError as error:
        detail = ": ".join([error.message, *(error.evidence or "").splitlines()[-1:]])
        return Diagnosis(name, Presence.MISSING, required, detail, error.hint)
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
        return Diagnosis(name, Presence.MISSING, required, detail)
    if isinstance(answer, str):
        answer = Answer(answer)
    return Diagnosis(name, answer.status, required, answer.detail, answer.hint)


def attempt_tool(name: str, *, package: str | None = None) -> Diagnosis:
    """Look for a program in PATH."""
    return attempt(name, lambda: str(find_tool(name, package=package)))


def try_disk_space(directory: Path, needed_mib: int) -> str:
    """Look whether the disk of ``directory``, which need not exist yet, has room for more.

    :raises MissingRequirement: it has less than ``needed_mib`` MiB.
    """
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free >> 20
    detail = f"{free} MiB free for {directory}"
    if free < needed_mib:
        raise MissingRequirement(
            f"{detail}, {needed_mib} MiB needed",
            hint="free some space, or set IMSH_CACHE to a directory on another disk",
        )
    return detail
