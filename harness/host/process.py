"""Starting processes: the only module of the harness that does.

Every child gets ``/dev/null`` as standard input, a process group of its own, and SIGKILL from the
kernel when the harness is gone (``prctl(PR_SET_PDEATHSIG)``), so that nothing outlives a harness
that was killed, at whatever moment.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import DeadlineExpired, LaunchError, MissingRequirement
from harness.host.deadline import Deadline

TAIL_LINES = 20
"""Lines of a log that an error carries."""

LEAVE_SECONDS: Final = 2.0
"""How long the last of a child's descendants may take to go, once they have been killed."""

# The signal is not sent for a parent that had died before it was asked for: whoever has another
# parent by then ends at once.
_IF_PARENT_LIVES: Final = '[ "$PPID" = "$1" ] || exit; shift; exec "$@"'


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


def find_tool(name: str, *, package: str | None = None, path: str | None = None) -> Path:
    """Return the path of a host program.

    :param path: where it is looked for, in the place of PATH.
    :raises MissingRequirement: it is not there; the hint names the package that has it.
    """
    if found := shutil.which(name, path=path):
        return Path(found)
    raise MissingRequirement(
        f"{name} is not in {path or 'PATH'}",
        hint=f"install the package {package or name} with the host's package manager",
    )


def dying_with_parent(argv: Sequence[str]) -> list[str]:
    """Return ``argv`` behind what has it killed when this process dies, or is dead by then.

    ``setpriv`` (util-linux) sets the parent-death signal. It is sent when the *thread* that starts
    the child ends.
    """
    setpriv = str(find_tool("setpriv", package="util-linux"))
    check = ["sh", "-c", _IF_PARENT_LIVES, "sh", str(os.getpid())]
    return [setpriv, "--pdeathsig", "KILL", "--", *check, *argv]


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that has ended: its exit status (negative: the signal) and output."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str


class _Nurse:
    """Starts one child, from a thread that stays until it has ended.

    So a child may be started from any thread: it does not die with it. The child is not reaped, so
    that its process id, which is its group's too, is nobody else's as long as anybody may use it.
    """

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]]):
        self._start = start
        self._popen: Future[subprocess.Popen[bytes]] = Future()
        self._status: Future[int] = Future()
        threading.Thread(target=self._stay, name="nurse", daemon=True).start()
        self.pid = self._popen.result().pid

    def _stay(self) -> None:
        try:
            popen = self._start()
        except BaseException as error:
            self._popen.set_exception(error)
            return
        self._popen.set_result(popen)
        ended = os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None  # it is None only with WNOHANG
        exited = ended.si_code == os.CLD_EXITED
        self._status.set_result(ended.si_status if exited else -ended.si_status)

    def wait(self, seconds: float | None) -> int | None:
        """Return the exit status as soon as there is one, None when there is none for so long."""
        try:
            return self._status.result(seconds)
        except TimeoutError:
            return None

    def reap(self) -> None:
        """Give the process id back. The child has ended."""
        self._popen.result().wait()


class Process:
    """A running child. Made by :func:`running`, which owns its end."""

    def __init__(self, name: str, argv: Sequence[str], nurse: _Nurse, life: int, log: Path):
        self.name = name
        self.argv = tuple(argv)
        self.log = log
        self._nurse = nurse
        self._life = life
        self._reaped = False
        self._signalling = threading.Lock()

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        return self._nurse.pid

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs (negative: the signal that ended it)."""
        return self._nurse.wait(0)

    def wait(self, deadline: Deadline) -> int:
        """Wait for the end and return the exit status.

        :raises DeadlineExpired: it still runs.
        """
        status = self._nurse.wait(deadline.remaining())
        if status is None:
            raise deadline.error(tail_of_file(self.log))
        return status

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group; nothing happens when it has ended."""
        if self.poll() is None:
            self._signal_group(number)

    def stop(self, *, grace: float = 2.0) -> int:
        """End the process group: SIGTERM, and SIGKILL after ``grace`` seconds.

        Return the exit status, once no descendant that keeps the descriptors it inherits is left.
        """
        self.signal(signal.SIGTERM)
        status = self._nurse.wait(grace)
        # Its leader too, if it must be; and members that outlived it.
        self._signal_group(signal.SIGKILL)
        if status is None:
            status = self._nurse.wait(None)
            assert status is not None  # there was no limit
        with self._signalling:
            self._nurse.reap()
            self._reaped = True
        self._wait_alone()
        return status

    def _signal_group(self, number: int) -> None:
        with self._signalling, contextlib.suppress(ProcessLookupError, PermissionError):
            if not self._reaped:
                os.killpg(self.pid, number)

    def _wait_alone(self) -> None:
        """Wait for the last holder of the pipe's other end: one of a namespace dies a bit later."""
        if self._life >= 0:
            select.select([self._life], [], [], LEAVE_SECONDS)
            os.close(self._life)
            self._life = -1


def _start(
    argv: Sequence[str],
    *,
    name: str,
    log: Path,
    stdout: int,
    stderr: int,
    cwd: Path | None,
    env: Mapping[str, str] | None,
    pass_fds: Sequence[int],
) -> Process:
    merged = None if env is None else {**os.environ, **env}
    life, held = os.pipe()

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            dying_with_parent(argv),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=merged,
            pass_fds=(*pass_fds, held),
            process_group=0,
        )

    try:
        return Process(name, argv, _Nurse(start), life, log)
    except BaseException as error:
        os.close(life)
        if isinstance(error, OSError):
            raise LaunchError(f"cannot start {argv[0]}: {error.strerror}") from error
        raise
    finally:
        os.close(held)


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
        process = _start(
            argv,
            name=name,
            log=log,
            stdout=output.fileno(),
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            pass_fds=pass_fds,
        )
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
        if log:
            stdout = stderr = stack.enter_context(log.open("ab")).fileno()
        else:
            stdout, stderr = (stack.enter_context(_memory_file()) for _ in range(2))
        process = _start(
            argv,
            name=argv[0],
            log=log or Path(os.devnull),
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=env,
            pass_fds=pass_fds,
        )
        try:
            process.wait(deadline)
        except DeadlineExpired:
            raise DeadlineExpired(
                f"{shell_line(argv)}: still running after {deadline.seconds:.0f} s",
                evidence=tail_of_file(log) if log else None,
            ) from None
        finally:
            status = process.stop(grace=0.5)
        out, err = ("", "") if log else (_read_all(stdout), _read_all(stderr))
    if check and status:
        raise LaunchError(
            f"{shell_line(argv)}: exit status {status}",
            evidence=tail_of_file(log) if log else tail(out + err),
            hint=f"the whole log: {log}" if log else None,
        )
    return Completed(tuple(argv), status, out)


@contextlib.contextmanager
def _memory_file() -> Iterator[int]:
    """Hold an anonymous file: unlike a pipe it never fills, and nobody has to read meanwhile."""
    fd = os.memfd_create("imsh-output", os.MFD_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _read_all(fd: int) -> str:
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return file.read().decode(errors="replace")
