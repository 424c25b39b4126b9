# Ref: ld.so(8), --library-path and --list
"""Programs of an unpacked root, run on the host: by the root's own loader, with its libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_LOADERS: Final = ("usr/lib64/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2")
LIBRARIES: Final = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")


def loader_command(root: Path) -> tuple[str, ...] | None:
    """Return the loader of a root, told where the libraries are; None when it brings no loader.

    A program of the root comes behind it.
    """
    loader = next((root / path for path in _LOADERS if (root / path).exists()), None)
    if loader is None:
        return None
    return str(loader), "--library-path", ":".join(str(root / path) for path in LIBRARIES)
