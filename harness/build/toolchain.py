"""Toolchains: what programs for one kernel are compiled by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.build.sandbox import HOST, PATH
from harness.host.deadline import Deadline
from harness.host.process import find_tool, run

_PACKAGE_OF: Final = {"ld": "binutils", "depmod": "kmod"}
"""Of programs whose package has another name."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A root with gcc, make and a C library."""

    root: Path
    """A root of packages, or :data:`~harness.build.sandbox.HOST`."""
    packages: tuple[str, ...]
    """Every package of the root, as "name version"; of the host's, what says which it is."""


def host_toolchain(*tools: str) -> Toolchain:
    """Return this machine's own gcc, with what else it is to have.

    :raises MissingRequirement: it lacks one; names the package.
    """
    versions = []
    for tool in ("gcc", *tools):
        program = find_tool(tool, package=_PACKAGE_OF.get(tool), path=PATH)
        said = run([str(program), "--version"], deadline=Deadline(20, f"{tool} --version"))
        versions.append(said.stdout.partition("\n")[0])
    return Toolchain(HOST, tuple(versions))
