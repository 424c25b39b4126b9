# Ref: Linux kernel Documentation/kbuild/kbuild.rst and reproducible-builds.rst
"""Kbuild: the kernel's own build, run on a tree that it only reads, into a directory of ours."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from harness.build.kconfig import parse_config
from harness.build.sandbox import SHOWN, Sandbox
from harness.build.toolchain import Toolchain
from harness.errors import BuildError
from harness.host.cache import NO_SPACE_TEXTS
from harness.host.deadline import Deadline
from harness.host.process import shell_line

_SECONDS: Final = 4 * 3600.0
_ERROR_LINES: Final = 16

_ENVIRONMENT: Final = {
    # The same tree is the same image, and another image says that something changed.
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "imsh",
    "KBUILD_BUILD_HOST": "imsh",
    "KBUILD_BUILD_VERSION": "1",
    "CCACHE_DIR": str(SHOWN / "ccache"),
    "CCACHE_MAXSIZE": "5G",
}

_STEP: Final = re.compile(r"(?m)^  [A-Z][A-Z0-9+-]*(?: \[M\])? +\S")
_TYPICAL_STEPS: Final = 2050
"""Steps of a whole build of 6.12 in our configuration: the estimate of a first build."""


class _Confinement(TypedDict):
    """What :meth:`Sandbox.command` takes besides the words."""

    root: Path
    readable: Mapping[str, Path]
    writable: Mapping[str, Path]
    environment: Mapping[str, str]


class CompileError(BuildError):
    """The tree does not build; the evidence is what the compiler said first."""


@dataclass(frozen=True, slots=True)
class Kbuild:
    """One tree, one configuration, and the directory that its objects go to.

    The directory is kept from build to build; whoever builds holds its lock.
    """

    sandbox: Sandbox
    toolchain: Toolchain
    source: Path
    output: Path
    ccache: Path
    log: Path

    def configure(self, text: str, *, whole: bool) -> dict[str, str]:
        """Make ``text`` the configuration, and return what kconfig made of it.

        :param whole: it is a whole configuration; else it goes on top of the tree's tinyconfig.
        :raises BuildError: kconfig failed.
        """
        self._discard_half_done()
        # In a file beside: while the configuration stays the same, all objects stay valid.
        wanted, now = self.output / "wanted.config", self.output / ".config"
        given = f"KCONFIG_CONFIG={SHOWN / 'build' / wanted.name}"
        wanted.unlink(missing_ok=True)
        if not whole:
            self._make(given, "tinyconfig", step="configuring the kernel")
        with wanted.open("a") as file:
            file.write(text)
        self._make(given, "olddefconfig", step="configuring the kernel")
        became = wanted.read_text()
        if not now.exists() or now.read_text() != became:
            now.write_text(became)
        return parse_config(became)

    def build(self) -> None:
        """Build the image and the modules; when it fails, what was built stays valid.

        :raises CompileError: the tree does not build.
        """
        half_done = self.output / "half-done"
        half_done.touch()
        began = self.log.stat().st_size
        try:
            self._make("bzImage", "modules", step="building the kernel")
        except BuildError as error:
            said = self._said(began)
            if any(text in said for text in NO_SPACE_TEXTS):
                raise  # objects may be cut short: half-done stays
            half_done.unlink()
            raise CompileError(
                "the kernel does not build",
                evidence=first_error(said),
                hint=f"repeat it: {self.write_repeat()} {failed_target(said)}".rstrip()
                + f"; the whole log: {self.log}",
            ) from error
        half_done.unlink()
        steps = max(self._known_steps(), len(_STEP.findall(self._said(began))))
        (self.output / "steps").write_text(str(steps))

    def install_modules(self, target: Path) -> str:
        """Install the modules into ``target``/lib/modules/RELEASE and return the release.

        :raises BuildError: it failed.
        """
        self._make("INSTALL_MOD_PATH=/imsh/install", "modules_install",
                   step="installing the modules", install=target)  # fmt: skip
        release = (self.output / "include/config/kernel.release").read_text().strip()
        for link in ("build", "source"):
            (target / "lib/modules" / release / link).unlink(missing_ok=True)
        return release

    def write_repeat(self) -> Path:
        """Return a program that runs make on this tree as it is run here; targets follow."""
        script = self.output / "make"
        command = self.sandbox.command(self._argv("-j1"), **self._confinement(None))
        script.write_text(f'#!/bin/sh\nexec {shell_line(command)} "$@"\n')
        script.chmod(0o755)
        return script

    def state(self) -> str:
        """Return how far :meth:`build` is, for a human; called while it runs."""
        half_done = self.output / "half-done"
        if not half_done.exists() or not self.log.exists():
            return ""
        done = len(_STEP.findall(self._said(0)))
        return estimate(done, self._known_steps(), time.time() - half_done.stat().st_mtime)

    def _make(self, *words: str, step: str, install: Path | None = None) -> None:
        self.sandbox.run_step(
            self._argv(f"-j{os.cpu_count() or 1}", *words),
            step=step,
            log=self.log,
            deadline=Deadline(_SECONDS, step),
            **self._confinement(install),
        )

    def _argv(self, *words: str) -> list[str]:
        # Unconfigured packages: ccache has no links in the place of the compilers.
        ccache = (self.toolchain.root / "usr/bin/ccache").exists()
        compiler = ["CC=ccache gcc"] if ccache else []
        return ["make", "-C", str(SHOWN / "tree"), f"O={SHOWN / 'build'}", *compiler, *words]

    def _confinement(self, install: Path | None) -> _Confinement:
        self.ccache.mkdir(parents=True, exist_ok=True)
        writable = {"build": self.output, "ccache": self.ccache}
        return {
            "root": self.toolchain.root,
            "readable": {"tree": self.source},
            "writable": writable | ({"install": install} if install else {}),
            "environment": _ENVIRONMENT,
        }

    def _said(self, began: int) -> str:
        with self.log.open(errors="replace") as file:
            file.seek(began)
            return file.read()

    def _discard_half_done(self) -> None:
        """Remove what a killed build wrote: an object may be cut short and look up to date."""
        half_done = self.output / "half-done"
        if not half_done.exists():
            return
        began = half_done.stat().st_mtime_ns
        for path in self.output.rglob("*"):
            if path != half_done and path.is_file() and path.lstat().st_mtime_ns >= began:
                path.unlink()
        half_done.unlink()

    def _known_steps(self) -> int:
        """Return how many steps a whole build has, as the longest so far had."""
        try:
            return int((self.output / "steps").read_text())
        except (FileNotFoundError, ValueError):
            return _TYPICAL_STEPS


def first_error(said: str) -> str:
    """Return the compiler's first complaint in what make printed, with the lines that explain it.

    Where there is none (a linker, a script, a killed compiler) it is what stands before make's own
    first error.
    """
    lines = said.splitlines()
    error = re.compile(r"\S+:\d+(:\d+)?: (fatal )?error: |.*(ld|modpost|ERROR): |ERROR: ")
    gave_up = re.compile(r"make(\[\d+\])?: \*\*\*")
    at = next((n for n, line in enumerate(lines) if error.match(line)), None)
    if at is None:
        end = next((n for n, line in enumerate(lines) if gave_up.match(line)), len(lines))
        return "\n".join(lines[max(0, end - _ERROR_LINES) : end + 1])
    while at and re.match(
        r"In file included from|\s+from |\S+: In function|\S+: At top", lines[at - 1]
    ):
        at -= 1
    rest = lines[at : at + _ERROR_LINES]
    end = next((n for n, line in enumerate(rest) if gave_up.match(line)), len(rest))
    return "\n".join(rest[:end])


def failed_target(said: str) -> str:
    """Return the target that make gave up first, "" when it is none that can be named to it."""
    found = re.search(r"make\[\d+\]: \*\*\* \[\S+: ([\w/.+-]+\.\w+)\] Error", said)
    return found[1] if found else ""


def estimate(done: int, total: int, seconds: float) -> str:
    """Return "120 of about 1900 steps, about 300 s left" for a build that runs for ``seconds``."""
    if not done:
        return ""
    if done >= total:
        return f"{done} steps"
    left = seconds * (total - done) / done
    return f"{done} of about {total} steps, about {left:.0f} s left"
