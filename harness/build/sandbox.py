# Ref: bubblewrap's bwrap(1)
"""Build steps, run where they cannot leave: what they see is a build root and what they are shown.

A patch series can make a build do anything. So a step has user, process, network, IPC and mount
namespaces of its own, no capability, and no way to get more: the build root is there to be read, a
fresh ``/proc`` shows the step's own processes only, and below ``/imsh`` stand the directories that
it was given. bubblewrap sets this up; it is fetched from the archive like QEMU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from harness.build.namespace import run_step
from harness.build.roots import TOOL_SUITE, RootRecipe, Roots
from harness.build.unpacked import loader_command
from harness.errors import BuildError
from harness.host.deadline import Deadline

SHOWN: Final = PurePosixPath("/imsh")
"""Where a step finds the directories that it was given, by their names."""

HOST: Final = Path("/")
"""In the place of a build root: the programs of this machine, and nothing else of it."""
_OF_HOST: Final = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_OF_HOSTS_ETC: Final = ("alternatives", "ld.so.cache")

_RECIPE: Final = RootRecipe(suites=(TOOL_SUITE,), packages=("bubblewrap",))
_PROGRAM: Final = "usr/bin/bwrap"

PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where a step finds its programs."""
_ENVIRONMENT: Final = {"HOME": "/tmp", "LC_ALL": "C", "PATH": PATH}


class Sandbox:
    """Runs build steps confined, by the bubblewrap of one cache."""

    def __init__(self, roots: Roots):
        self._roots = roots

    def run_step(
        self,
        argv: Sequence[str],
        *,
        root: Path,
        step: str,
        log: Path,
        deadline: Deadline,
        readable: Mapping[str, Path] | None = None,
        writable: Mapping[str, Path] | None = None,
        directory: PurePosixPath = SHOWN,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Run a command of a build root to its end; its output is appended to ``log``.

        When it ends, or is given up, all that it started is ended too.

        :param step: what it is for, for messages; for the others see :meth:`command`.
        :raises BuildError: it failed; names the step, the evidence is the log's tail.
        :raises DeadlineExpired: it did not end in time; it has been killed.
        """
        confined = self.command(
            argv,
            root=root,
            readable=readable,
            writable=writable,
            directory=directory,
            environment=environment,
        )
        run_step(confined, step=step, log=log, deadline=deadline)

    def command(
        self,
        argv: Sequence[str],
        *,
        root: Path,
        readable: Mapping[str, Path] | None = None,
        writable: Mapping[str, Path] | None = None,
        directory: PurePosixPath = SHOWN,
        environment: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Return the command that runs ``argv`` confined.

        :param root: the build root, one of :class:`~harness.build.roots.Roots`: its ``/``; or
            :data:`HOST`.
        :param readable: name below ``/imsh`` -> directory of the host, to be read only. With
            :data:`HOST` the name may as well be an absolute path.
        :param writable: the same, to be written.
        :param directory: where it starts, as it sees it.
        :param environment: variables besides ``PATH``, ``HOME`` and ``LC_ALL``; it has no others.
        """
        return [
            *self._bubblewrap(),
            *options(root, readable or {}, writable or {}, directory, environment or {}),
            "--",
            *argv,
        ]

    def _bubblewrap(self) -> tuple[str, ...]:
        root = self._roots.provide("tool", "bubblewrap", _RECIPE) / "root"
        loader = loader_command(root)
        program = root / _PROGRAM
        if loader is None or not program.exists():
            raise BuildError(f"the package bubblewrap brings no {_PROGRAM} or no C library")
        return (*loader, str(program))


def options(
    root: Path,
    readable: Mapping[str, Path],
    writable: Mapping[str, Path],
    directory: PurePosixPath,
    environment: Mapping[str, str],
) -> list[str]:
    """Return bubblewrap's options for :meth:`Sandbox.command`."""
    words = [
        # A user namespace also for root, who would go without one; and none within it.
        "--unshare-user", "--unshare-all", "--disable-userns", "--cap-drop", "ALL",
        "--die-with-parent",
        "--new-session",  # keeps it from typing into our terminal (TIOCSTI)
        "--hostname", "imsh",
        "--clearenv",
    ]  # fmt: skip
    for name, value in {**_ENVIRONMENT, **environment}.items():
        words += ["--setenv", name, value]
    words += _host() if root == HOST else ["--ro-bind", str(root), "/"]
    words += ["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    words += ["--tmpfs", str(SHOWN)]
    for option, shown in (("--ro-bind", readable), ("--bind", writable)):
        for name, path in shown.items():
            words += [option, str(path), str(SHOWN / name)]
    words += ["--remount-ro", "/"] if root == HOST else []
    return [*words, "--remount-ro", str(SHOWN), "--chdir", str(directory)]


def _host() -> list[str]:
    """Return the options for a root with this machine's programs in it."""
    words: list[str] = []
    for path in (HOST / name for name in _OF_HOST):
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    for path in (HOST / "etc" / name for name in _OF_HOSTS_ETC):
        words += ["--ro-bind-try", str(path), str(path)]
    return words
