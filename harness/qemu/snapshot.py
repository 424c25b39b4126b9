# Ref: QEMU docs/devel/migration/main (capability x-ignore-shared); qapi/migration.json
"""A stopped machine on disk: its memory in one file, the state of its devices in another.

    memory          guest memory, sparse; restored machines map it copy-on-write, all the same pages
    state           what QEMU migrates besides
    manifest.json   sizes and digests of both, written last

QEMU leaves memory that is in a shared file out of what it migrates, so that saving is a copy of the
pages in use and restoring is mapping them. The devices that the harness serves cannot be saved:
they are plugged in after the restore.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import HarnessError
from harness.host.deadline import Deadline
from harness.qemu.qmp import QmpSession

SAVE_SECONDS: Final = 30.0
LOAD_SECONDS: Final = 20.0

_ENDS: Final = ("completed", "failed")
"""Of a migration, in the words of its MIGRATION event."""

_CHUNK: Final = 1 << 16
_ZEROS: Final = bytes(_CHUNK)


Stamp = tuple[tuple[int, ...], ...]
"""Inode, size and time of change of each file; of one that is not there, nothing."""


class SnapshotUnusable(HarnessError):
    """A saved machine is incomplete or damaged, or QEMU does not take it."""


@dataclass(frozen=True, slots=True)
class SavedState:
    """The files of a saved machine, in a directory of their own."""

    directory: Path

    @property
    def memory(self) -> Path:
        """Guest memory."""
        return self.directory / "memory"

    @property
    def state(self) -> Path:
        """QEMU's own state."""
        return self.directory / "state"

    @property
    def made(self) -> float:
        """When it was completed, in seconds since 1970; 0.0 when it is not complete."""
        try:
            return self._manifest.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def stamp(self) -> Stamp:
        """Return what changes when somebody writes or replaces a file: cheap, and no proof."""
        return tuple(_stamp(path) for path in (self.memory, self.state, self._manifest))

    def complete(self, memory_fd: int) -> None:
        """Write memory and the manifest, beside a state that is there.

        :param memory_fd: the file behind guest memory, mapped shared and no longer written.
        :raises OSError: a file cannot be written, e.g. because the disk is full.
        """
        with self.memory.open("wb") as file:
            for offset, data in _chunks(memory_fd):
                _write_all(file.fileno(), data, offset)
            file.truncate(os.fstat(memory_fd).st_size)
        for path in (self.memory, self.state):
            path.chmod(0o444)
        self._manifest.write_text(json.dumps(self._describe()))

    def check(self) -> None:
        """Read everything, and compare it with what was written.

        :raises SnapshotUnusable: a file is missing, or not what it was.
        """
        try:
            manifest = json.loads(self._manifest.read_text())
            found = self._describe()
        except (OSError, ValueError) as error:
            raise SnapshotUnusable(f"{self.directory}: {error}") from error
        if found != manifest:
            raise SnapshotUnusable(
                f"{self.directory}: it is not what was saved",
                evidence=f"now:  {found}\nthen: {manifest}",
            )

    @property
    def _manifest(self) -> Path:
        return self.directory / "manifest.json"

    def _describe(self) -> dict[str, dict[str, int | str]]:
        return {path.name: _facts(path) for path in (self.memory, self.state)}


def save_state(qmp: QmpSession, memory_fd: int, directory: Path) -> SavedState:
    """Save a machine whose CPUs are stopped. It must not run again: memory would go on alone.

    :param memory_fd: the file behind guest memory, mapped shared.
    :param directory: an empty one.
    :raises OSError: as :meth:`SavedState.complete`.
    :raises HarnessError: QEMU cannot save its state, or cannot write it.
    """
    saved = SavedState(directory)
    _migrate(qmp, "migrate", saved.state, Deadline(SAVE_SECONDS, "QEMU to save its state"))
    saved.complete(memory_fd)
    return saved


def load_state(qmp: QmpSession, saved: SavedState) -> None:
    """Make a QEMU that waits for a saved state take it; its CPUs stay stopped.

    :raises SnapshotUnusable: QEMU refuses it.
    """
    deadline = Deadline(LOAD_SECONDS, "QEMU to load its state")
    try:
        # Nobody has to learn that the guest is at another place of the network now.
        qmp.execute("migrate-set-parameters", {"announce-rounds": 0})
        _migrate(qmp, "migrate-incoming", saved.state, deadline, **{"exit-on-error": False})
    except HarnessError as error:
        raise SnapshotUnusable(
            f"{saved.directory}: {error.message}", evidence=error.evidence
        ) from error


def _migrate(
    qmp: QmpSession, command: str, state: Path, deadline: Deadline, **options: object
) -> None:
    capabilities = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]
    qmp.execute("migrate-set-capabilities", {"capabilities": capabilities})
    address = {"transport": "file", "filename": str(state), "offset": 0}
    channels = [{"channel-type": "main", "addr": address}]
    with qmp.expecting("MIGRATION", deadline, lambda data: data["status"] in _ENDS) as announced:
        qmp.execute(command, {"channels": channels, **options})
    if announced[0].data["status"] != "completed":
        answer = qmp.execute("query-migrate")
        raise HarnessError(f"{command}: {answer.get('error-desc', answer['status'])}")


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _facts(path: Path) -> dict[str, int | str]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for offset, data in _chunks(file.fileno()):
            digest.update(offset.to_bytes(8, "little"))
            digest.update(data)
        return {"size": os.fstat(file.fileno()).st_size, "sha256": digest.hexdigest()}


def _write_all(fd: int, data: bytes, offset: int) -> None:
    """Write all of it: a disk that gets full takes a part, and says so only at the next try."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def _chunks(fd: int) -> Iterator[tuple[int, bytes]]:
    """Yield the parts of a file that are not zero, with their offsets; holes are not read."""
    size = os.fstat(fd).st_size
    offset = 0
    while offset < size:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole is left
            return
        offset -= offset % _CHUNK
        data = os.pread(fd, _CHUNK, offset)
        if data != _ZEROS[: len(data)]:
            yield offset, data
        offset += _CHUNK
