"""Where a run leaves its files: one directory of artifacts, and nothing else on disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Workspace:
    """The artifact directory of one run."""

    directory: Path

    def path(self, name: str) -> Path:
        """Return the path of an artifact, e.g. ``console.log``; its directory exists."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, text: str) -> Path:
        """Write an artifact and return its path."""
        path = self.path(name)
        path.write_text(text)
        return path


def make_workspace(parent: Path, label: str) -> Workspace:
    """Make a new directory below ``parent``: ``label``, or ``label.1``, ... when there is one.

    :raises ConfigError: it cannot be made.
    """
    number = 0
    while True:
        directory = parent / (f"{label}.{number}" if number else label)
        try:
            directory.mkdir(parents=True)
            return Workspace(directory.resolve())
        except FileExistsError:
            number += 1
        except OSError as error:
            raise ConfigError(f"cannot make the directory {directory}: {error.strerror}") from error


@contextlib.contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Hold a directory, made if need be, against other runs. The dead hold no locks.

    :raises ConfigError: another run holds it, or it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("ab")
    except OSError as error:
        raise ConfigError(f"cannot use the directory {directory}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another run uses the directory {directory}",
                hint="wait for its end, or name another directory",
            ) from None
        yield


@contextlib.contextmanager
def nameless_listener() -> Iterator[tuple[socket.socket, str]]:
    """Hold a listening UNIX socket that has no name in the file system, and how to connect to it.

    A client that takes nothing but a path is given ``/proc/<pid>/fd/<n>``: the descriptor refers to
    the socket's inode, whose real name is gone before this is entered. So nothing is left behind by
    a harness that is killed, and the path always fits (``sun_path`` is 108 bytes).
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        with tempfile.TemporaryDirectory(prefix="imsh-") as directory:
            name = os.path.join(directory, "s")
            listener.bind(name)
            listener.listen()
            inode = os.open(name, os.O_PATH | os.O_CLOEXEC)
            stack.callback(os.close, inode)
        yield listener, f"/proc/{os.getpid()}/fd/{inode}"
