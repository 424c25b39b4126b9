"""The guest's own programs, module and control tool, built for a kernel in that kernel's root."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.build.kernel import KernelArtifact
from harness.build.sandbox import SHOWN, Sandbox
from harness.host.cache import Cache, digest, digest_of_files
from harness.host.deadline import Deadline
from harness.host.resources import resource

KIND: Final = "module"
MODULE: Final = "imstest.ko"
CONTROL: Final = "imsctl"

_MODULE_SOURCES: Final = "guests/module"
_CONTROL_SOURCES: Final = "guests/control"
_SUFFIXES: Final = (".c", ".h", ".S")
_BUILD_FILES: Final = ("Kbuild", "Makefile")

_WORK: Final = SHOWN / "guest"
_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class ModuleArtifact:
    """The guest module and the control tool, built for ``kernel``."""

    kernel: str
    module: Path
    """imstest.ko as the guest gets it, without debug sections."""
    debug: Path
    """The same with them, to find the line of an address in a kernel log."""
    control: Path
    """The static program imsctl."""


def provide_module(sandbox: Sandbox, cache: Cache, kernel: KernelArtifact) -> ModuleArtifact:
    """Return the guest's programs for a kernel, after building them if need be.

    :raises BuildError: the sources do not build; the evidence is the compiler's.
    """

    def make(entry: Path, log: Path) -> None:
        for sources in (_MODULE_SOURCES, _CONTROL_SOURCES):
            target = entry / Path(sources).name
            target.mkdir()
            for path in source_files(resource(sources)):
                shutil.copy(path, target)

        def step(what: str, *argv: str) -> None:
            sandbox.run_step(
                argv,
                root=kernel.toolchain.root,
                step=f"{what} for {kernel.name}",
                log=log,
                deadline=Deadline(_SECONDS, what),
                readable=kernel.shown,
                writable={"guest": entry},
                directory=_WORK,
            )

        jobs = f"-j{os.cpu_count() or 1}"
        step("building the guest module",
             # W=1 would also check the comments, with a script that the headers come without.
             "make", jobs, "-C", str(kernel.build), f"M={_WORK}/module",
             "W=1", "KCFLAGS=-Werror", "cmd_checkdoc=", "modules")  # fmt: skip
        step(f"building {CONTROL}",
             "gcc", "-static", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror",
             "-Imodule", "-o", CONTROL,
             *[f"control/{path.name}" for path in source_files(resource(_CONTROL_SOURCES))
               if path.suffix == ".c"])  # fmt: skip
        step(f"stripping {MODULE}", "strip", "--strip-debug", "-o", MODULE, f"module/{MODULE}")

    entry = cache.provide(KIND, kernel.name, _key(kernel), make)
    return _describe(kernel, entry)


def find_module(cache: Cache, kernel: KernelArtifact) -> ModuleArtifact | None:
    """Return the guest's programs for a kernel when they are built from today's sources."""
    entry = cache.find(KIND, kernel.name, _key(kernel))
    return _describe(kernel, entry) if entry else None


def source_files(directory: Path) -> list[Path]:
    """Return the files of a source directory that a build reads, sorted.

    What a build by hand leaves behind (objects, ``*.mod.c``, dot files) is no source.
    """
    return sorted(
        path
        for path in directory.iterdir()
        if (path.suffix in _SUFFIXES or path.name in _BUILD_FILES)
        and not path.name.endswith(".mod.c")
        and not path.name.startswith(".")
    )


def _key(kernel: KernelArtifact) -> str:
    sources = [
        digest_of_files(source_files(resource(directory)))
        for directory in (_MODULE_SOURCES, _CONTROL_SOURCES)
    ]
    builder = digest_of_files([Path(__file__)])
    return digest(builder, sources, kernel.key)


def _describe(kernel: KernelArtifact, entry: Path) -> ModuleArtifact:
    return ModuleArtifact(
        kernel=kernel.name,
        module=entry / MODULE,
        debug=entry / "module" / MODULE,
        control=entry / CONTROL,
    )
