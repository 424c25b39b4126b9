"""Starting processes: the only module of the harness that does.

Every child gets ``/dev/null`` as standard input, a process group of its own, and SIGKILL from the
kernel when the thread that started it is gone (``prctl(PR_SET_PDEATHSIG)``), so that nothing
outlives a harness that was killed. Start long-lived children from a thread that lives as long.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from harness.errors import DeadlineExpired, LaunchError, MissingRequirement
from harness.host.deadline import Deadline

TAIL_LINES = 20
"""Lines of a log that an error carries."""


def shell_line(argv: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """Return ``argv`` as one line to paste into a shell, with ``env`` in front."""
    words = [f"{name}={shlex.quote(value)}" for name, value in (env or {}).items()]
    return " ".join([*words, *map(shlex.quote, argv)])


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """Return the last lines of ``text``."""
    return "\n".join(text.rstrip().splitlines()[-lines:])


def tail_of_file(path: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a log file, "" when there is none."""
    try:
        return tail(path.read_text(errors="replace"), lines)
    except FileNotFoundError:
        return ""


def find_tool(name: str, *, package: str | None = None) -> Path:
    """Return the path of a host program.

    :raises MissingRequirement: it is not in PATH; the hint names the package that has it.
    """
    if path := shutil.which(name):
        return Path(path)
    raise MissingRequirement(
        f"{name} is not in PATH",
        hint=f"install the package {package or name} with the host's package manager",
    )


def dying_with_parent(argv: Sequence[str]) -> list[str]:
    """Return ``argv`` behind ``setpriv`` (util-linux), which sets the parent-death signal."""
    return [str(find_tool("setpriv", package="util-linux")), "--pdeathsig", "KILL", "--", *argv]


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that has ended: its exit status (negative: the signal) and output."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str


class Process:
    """A running child. Made by :func:`running`, which owns its end."""

    def __init__(self, name: str, argv: Sequence[str], popen: subprocess.Popen[bytes], log: Path):
        self.name = name
        self.argv = tuple(argv)
        self.log = log
        self._popen = popen

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        return self._popen.pid

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs (negative: the signal that ended it)."""
        return self._popen.poll()

    def wait(self, deadline: Deadline) -> int:
        """Wait for the end and return the exit status.

        :raises DeadlineExpired: it still runs.
        """
        try:
            return self._popen.wait(deadline.remaining())
        except subprocess.TimeoutExpired:
            raise deadline.error(tail_of_file(self.log)) from None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group; nothing happens when it has ended."""
        if self._popen.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def stop(self, *, grace: float = 2.0) -> int:
        """End the process group: SIGTERM, and SIGKILL after ``grace`` seconds.

        Return the exit status.
        """
        self.signal(signal.SIGTERM)
        try:
            status = self._popen.wait(grace)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            status = self._popen.wait()
        # Members of the group that outlived their leader.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        return status


def _start(
    argv: Sequence[str],
    *,
    stdout: BinaryIO | int,
    stderr: int,
    cwd: Path | None,
    env: Mapping[str, str] | None,
    pass_fds: Sequence[int],
) -> subprocess.Popen[bytes]:
    merged = None if env is None else {**os.environ, **env}
    try:
        return subprocess.Popen(
            dying_with_parent(argv),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=merged,
            pass_fds=tuple(pass_fds),
            process_group=0,
        )
    except OSError as error:
        raise LaunchError(f"cannot start {argv[0]}: {error.strerror}") from error


@contextlib.contextmanager
def running(
    argv: Sequence[str],
    *,
    name: str,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[Process]:
    """Hold a running child whose output goes to the file ``log``; it is ended at exit.

    The caller keeps owning ``pass_fds``, and may close its copies once this is entered.

    :raises LaunchError: the program cannot be started.
    """
    with log.open("ab") as output:
        popen = _start(
            argv, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, env=env, pass_fds=pass_fds
        )
    process = Process(name, argv, popen, log)
    try:
        yield process
    finally:
        process.stop()


def run(
    argv: Sequence[str],
    *,
    deadline: Deadline,
    log: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    check: bool = True,
) -> Completed:
    """Run a command to its end.

    Standard output is returned, unless ``log`` is given: then both streams are appended there.
    ``env`` is merged over the harness's own environment.

    :raises LaunchError: the program cannot be started, or (``check``) its exit status is not 0.
    :raises DeadlineExpired: it did not end in time; it has been killed.
    """
    with contextlib.ExitStack() as stack:
        sink: BinaryIO | int = stack.enter_context(log.open("ab")) if log else subprocess.PIPE
        stderr = subprocess.STDOUT if log else subprocess.PIPE
        popen = _start(argv, stdout=sink, stderr=stderr, cwd=cwd, env=env, pass_fds=pass_fds)
        process = Process(argv[0], argv, popen, log or Path(os.devnull))
        stack.callback(process.stop, grace=0.5)
        try:
            out, err = popen.communicate(timeout=deadline.remaining())
        except subprocess.TimeoutExpired:
            raise DeadlineExpired(
                f"{shell_line(argv)}: still running after {deadline.seconds:.0f} s",
                evidence=tail_of_file(log) if log else None,
            ) from None
    stdout = (out or b"").decode(errors="replace")
    if check and popen.returncode:
        evidence = (
            tail_of_file(log) if log else tail(stdout + (err or b"").decode(errors="replace"))
        )
        raise LaunchError(
            f"{shell_line(argv)}: exit status {popen.returncode}",
            evidence=evidence,
            hint=f"the whole log: {log}" if log else None,
        )
    return Completed(tuple(argv), popen.returncode, stdout)
