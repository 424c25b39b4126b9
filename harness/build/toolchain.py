"""Toolchains: roots of packages in which programs for one kernel are compiled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A root with gcc, make and a C library."""

    root: Path
    packages: tuple[str, ...]
    """Every package of the root, as "name version"."""
