"""Evidence of a failure: kept whatever state the guest, QEMU and the host are in."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from harness.host.workspace import Workspace

LONGEST_NAME: Final = 200
"""Characters of a directory's name; file systems take 255 bytes."""


def keep(workspace: Workspace, name: str, look: Callable[[], str]) -> bool:
    """Write what ``look`` returns into a file; return whether it could be had.

    A guest that has gone wrong may leave anything behind: a table outside RAM, or something that
    the monitor shows as no number. What went wrong then stands in the file.
    """
    try:
        text, had = look(), True
    except Exception as error:
        text, had = f"(cannot be read: {error!r})\n", False
    with contextlib.suppress(OSError):  # the disk may be full
        workspace.write(name, text)
    return had


def own_directory(parent: Path, test: str) -> Path:
    """Make and return a directory for a test's evidence, which no other test's has."""
    name = re.sub(r"[^\w.-]+", "_", test)[-LONGEST_NAME:]
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        directory = parent / (name if number == 1 else f"{name}.{number}")
        with contextlib.suppress(FileExistsError):
            directory.mkdir()
            return directory
        number += 1
