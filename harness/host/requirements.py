"""What a machine must have: tried, never guessed from its looks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError
from harness.host.process import find_tool


@dataclass(frozen=True, slots=True)
class Requirement:
    """The answer about one thing that is needed."""

    name: str
    found: bool
    detail: str
    """Where or what it is; or why it is not there."""
    hint: str | None = None
    """How to get it."""


def attempt(name: str, trial: Callable[[], str]) -> Requirement:
    """Return whether ``trial`` works: it returns the detail, or raises an error saying why not."""
    try:
        return Requirement(name, True, trial())
    except OSError as error:
        return Requirement(name, False, str(error))
    except HarnessError as error:
        lines = [error.message, *(error.evidence or "").splitlines()[-1:]]
        return Requirement(name, False, ": ".join(lines), error.hint)


def tool(name: str, *, package: str | None = None) -> Requirement:
    """Return whether a program is in PATH."""
    return attempt(name, lambda: str(find_tool(name, package=package)))


def disk_space(directory: Path, needed_mib: int) -> Requirement:
    """Return whether the disk of ``directory``, which need not exist yet, has room for more."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free >> 20
    detail = f"{free} MiB free for {directory}"
    if free >= needed_mib:
        return Requirement("disk space", True, detail)
    return Requirement(
        "disk space",
        False,
        f"{detail}, {needed_mib} MiB needed",
        "free some space, or set IMSH_CACHE to a directory on another disk",
    )
