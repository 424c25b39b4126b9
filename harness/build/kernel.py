"""Guest kernels, whatever they come from: what a recipe says, and what is here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.build.roots import RootRecipe
from harness.build.toolchain import Toolchain


@dataclass(frozen=True, slots=True)
class KernelRecipe:
    """A guest kernel that the archive has, with its headers and the compiler that fits them."""

    name: str
    description: str
    root: RootRecipe


@dataclass(frozen=True, slots=True)
class KernelArtifact:
    """A guest kernel that is here, and what compiles modules for it."""

    name: str
    release: str
    """What ``uname -r`` says in the guest."""
    version: str
    """Which one it is, for reports: the version of the package that it came in."""
    key: str
    """Stands for all that it was made of, in the keys of what is made for it."""
    vmlinuz: Path
    modules: Path
    """Its ``/lib/modules/<release>``, with a fresh modules.dep."""
    build: Path
    """Where the toolchain sees what a module is built against (kbuild's ``make -C``)."""
    toolchain: Toolchain
