"""The cache: everything that provisioning makes, by the content it was made from.

    <cache>/<kind>/<name>-<key>/            complete; replaced as a whole or not at all
    <cache>/<kind>/<name>-<key>.partial/    being made by the holder of its lock, or left over
    <cache>/locks/                          one flock file an entry; the dead hold no locks
    <cache>/logs/<kind>-<name>-<key>.log    what making it printed, the last time

An entry appears by one rename, so that it is either complete or not there. It is sealed
(:mod:`harness.host.seal`): one that is damaged is made again. Nothing is fsynced: what a power cut
damages is found by that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from harness.errors import BuildError, ConfigError, HarnessError
from harness.host.deadline import Deadline, wait_until
from harness.host.progress import Progress
from harness.host.seal import all_files, broken, seal

log = logging.getLogger(__name__)

CACHE_VARIABLE: Final = "IMSH_CACHE"
"""Environment variable that names the cache directory."""

_LOCK_SECONDS: Final = 1800.0
_UNUSED_DAYS: Final = 30
_PARTIAL: Final = ".partial"
_REPLACED: Final = f".replaced{_PARTIAL}"
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
NO_SPACE_TEXTS: Final = (
    *map(os.strerror, _NO_SPACE),
    "You don't have enough free space",
    "echo: I/O error",
)
"""What programs say of a full disk: the C library's words, apt's of one that will be full, dash's.
"""


def cache_directory() -> Path:
    """Return ``IMSH_CACHE``, else ``imsh`` in the user's cache directory (XDG base directories).

    :raises ConfigError: the place is not an absolute path, or there is no home directory.
    """
    if given := os.environ.get(CACHE_VARIABLE):
        path = Path(given)
        if not path.is_absolute():
            raise ConfigError(f"{CACHE_VARIABLE}={given!r} is not an absolute path")
        return path
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "imsh"
    except RuntimeError as error:
        raise ConfigError(
            "this user has no home directory", hint=f"set {CACHE_VARIABLE} to a directory"
        ) from error


def digest(*parts: object) -> str:
    """Return a key of 16 hex digits for values whose ``repr`` says all about them."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def digest_of_files(paths: Iterable[Path]) -> str:
    """Return a key for the names, modes and contents of files, in sorted order."""
    return digest(
        *[
            (path.name, path.stat().st_mode & 0o111, hashlib.sha256(path.read_bytes()).digest())
            for path in sorted(paths)
        ]
    )


class Cache:
    """One cache directory, shared with every other run that uses it.

    :param directory: made when something is first put there.
    """

    def __init__(self, directory: Path, progress: Progress):
        self.directory = directory
        self.progress = progress

    def find(self, kind: str, name: str, key: str) -> Path | None:
        """Return the entry's directory when it is there, and what was made."""
        path = self._path(kind, name, key)
        if broken(path):
            return None
        with contextlib.suppress(OSError):  # somebody else's cache
            os.utime(path)  # tells _sweep() that it is in use
        return path

    def provide(
        self,
        kind: str,
        name: str,
        key: str,
        make: Callable[[Path, Path], None],
        *,
        state: Callable[[Path], str] | None = None,
        stale: Callable[[Path], bool] = lambda _: False,
        sealed: Callable[[Path], Iterable[Path]] = all_files,
        writes_to: tuple[Path, ...] = (),
    ) -> Path:
        """Return the entry's directory, after making it if need be.

        ``make(directory, record)`` fills an empty directory and appends to a log file. When two
        runs want the same entry, one makes it and the other waits. ``state(record)`` says how far
        it is. An entry of which ``stale(directory)`` says so is made anew, and stays until that is
        done; so is one that is damaged, with one line of log.

        :param sealed: the files of a complete entry whose damage is to be noticed.
        :param writes_to: other directories in which the maker may meet a full disk.
        :raises BuildError: the disk is full; nothing is left behind.
        :raises DeadlineExpired: another run did not finish making it.
        """
        if (path := self.find(kind, name, key)) and not stale(path):
            return path
        what = f"{kind} {name}"
        path = self._path(kind, name, key)
        record = self.directory / "logs" / f"{kind}-{path.name}.log"

        def fill(partial: Path) -> None:
            # While what was half done is there: afterwards the disk has room again.
            with self._disk_errors(what, record, writes_to):
                partial.mkdir()
                record.write_bytes(b"")
                make(partial, record)
                seal(partial, sealed(partial))

        self._make_directories(path.parent, record.parent)
        with self.lock(f"{kind}-{path.name}", what):
            if path.is_dir():
                damage = broken(path)
                if damage is None and not stale(path):
                    return path
                if damage is not None:
                    log.warning("%s is made again: %s", what, damage)
            self._sweep(path.parent)
            with self.progress.step(what, (lambda: state(record)) if state else None):
                self._make(path, fill)
        return path

    def forget(self, kind: str, name: str, key: str) -> None:
        """Remove an entry, so that it is made anew when it is next wanted.

        :raises DeadlineExpired: another run did not finish making it.
        """
        path = self._path(kind, name, key)
        with self.lock(f"{kind}-{path.name}", f"{kind} {name}"):
            _remove(path)

    def forget_old(self, kind: str, name: str, *, keep: int) -> None:
        """Remove the entries of a name, but for those that were used last.

        Whoever has a file of one open, or in its memory, keeps that until it ends.

        :raises DeadlineExpired: as :meth:`forget`.
        """
        used: dict[str, float] = {}
        for path in (self.directory / kind).glob(f"{name}-*"):
            # "-xapic-..." has another name; and one that is listed may be gone by now.
            if re.fullmatch("[0-9a-f]{16}", key := path.name.removeprefix(f"{name}-")):
                with contextlib.suppress(FileNotFoundError):
                    used[key] = path.stat().st_mtime
        for key in sorted(used, key=lambda key: used[key], reverse=True)[keep:]:
            self.forget(kind, name, key)

    @contextlib.contextmanager
    def lock(self, name: str, what: str) -> Iterator[None]:
        """Hold the lock ``name`` against every other user of the cache; ``what`` is for messages.

        :raises DeadlineExpired: another run holds it for half an hour.
        """
        locks = self.directory / "locks"
        self._make_directories(locks)
        with (locks / name).open("ab") as file:
            if not _try_lock(file.fileno()):
                deadline = Deadline(_LOCK_SECONDS, f"another run, which is making {what}")
                with self.progress.step(f"waiting for another run: {what}"):
                    wait_until(lambda: _try_lock(file.fileno()), deadline)
            yield

    def _path(self, kind: str, name: str, key: str) -> Path:
        return self.directory / kind / f"{name}-{key}"

    def _make_directories(self, *directories: Path) -> None:
        try:
            for directory in directories:
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise _full("the cache", [self.directory]) from error
            raise ConfigError(
                f"the cache {self.directory} cannot be written: {error.strerror}",
                hint=f"set {CACHE_VARIABLE} to a directory of yours",
            ) from error

    def _make(self, path: Path, fill: Callable[[Path], None]) -> None:
        partial = path.with_name(path.name + _PARTIAL)
        replaced = path.with_name(path.name + _REPLACED)
        _remove(partial)
        try:
            fill(partial)
            if path.is_dir():
                path.rename(replaced)
            partial.rename(path)
        except BaseException:
            _remove(partial)
            raise
        _remove(replaced)

    def _sweep(self, kind: Path) -> None:
        """Remove what killed runs left, and entries that nothing has used for long."""
        oldest = time.time() - _UNUSED_DAYS * 86400
        for path in kind.iterdir():
            name = path.name.removesuffix(_PARTIAL)
            # Another run may have just removed or completed what was listed.
            with contextlib.suppress(FileNotFoundError):
                if name == path.name and path.stat().st_mtime > oldest:
                    continue
                with (self.directory / "locks" / f"{kind.name}-{name}").open("ab") as file:
                    if _try_lock(file.fileno()):
                        _remove(path)
        for record in (self.directory / "logs").glob(f"{kind.name}-*.log"):
            with contextlib.suppress(FileNotFoundError):
                if record.stat().st_mtime <= oldest:
                    record.unlink()

    @contextlib.contextmanager
    def _disk_errors(self, what: str, record: Path, writes_to: tuple[Path, ...]) -> Iterator[None]:
        """Turn a full disk, whoever met it, into one clear error."""
        places = (self.directory, Path(tempfile.gettempdir()), *writes_to)
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            raise _full(what, places) from error
        except HarnessError as error:
            said = record.read_text(errors="replace") if record.exists() else ""
            if not any(text in f"{error}{said}" for text in NO_SPACE_TEXTS):
                raise
            raise _full(what, places) from error


def _full(what: str, places: Iterable[Path]) -> BuildError:
    """Return the error for a full disk: of the places written to, the one with least room."""
    free = {place: shutil.disk_usage(_existing(place)).free for place in places}
    place = min(free, key=lambda place: free[place])
    return BuildError(
        f"{what}: no space left on the disk of {place} ({free[place] >> 20} MiB free)",
        hint=f"free some space, or set {CACHE_VARIABLE} (TMPDIR for temporary files) to a "
        "directory on another disk; what was half done is removed",
    )


def _existing(place: Path) -> Path:
    """Return the nearest directory of a path that is there."""
    return next(path for path in (place, *place.parents) if path.exists())


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(path: Path) -> None:
    """Remove a directory, if it is there: complete ones vanish at once, by a rename."""
    if path.is_dir() and not path.name.endswith(_PARTIAL):
        path = path.rename(path.with_name(path.name + _PARTIAL))
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
