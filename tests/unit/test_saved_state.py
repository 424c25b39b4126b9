"""The files of a saved machine: what is wrong with them is found, whatever it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.qemu.snapshot import SavedState, SnapshotUnusable

MIB = 1 << 20


@pytest.fixture
def memory_fd() -> Iterator[int]:
    """Guest memory of 8 MiB with a few pages in use, one of them full of zeros."""
    fd = os.memfd_create("memory")
    os.ftruncate(fd, 8 * MIB)
    for offset, data in ((0, b"first"), (3 * MIB + 4096, b"middle"), (5 * MIB, bytes(4096))):
        os.pwrite(fd, data, offset)
    os.pwrite(fd, b"last", 8 * MIB - 4)
    yield fd
    os.close(fd)


@pytest.fixture
def saved(memory_fd: int, tmp_path: Path) -> SavedState:
    saved = SavedState(tmp_path)
    saved.state.write_bytes(b"QEVM" + bytes(range(256)) * 4)
    saved.complete(memory_fd)
    return saved


def test_memory_is_saved_as_it_was_and_sparse(saved: SavedState, memory_fd: int) -> None:
    assert saved.memory.read_bytes() == os.pread(memory_fd, 8 * MIB, 0)
    assert saved.memory.stat().st_blocks * 512 < MIB
    saved.check()


def test_nobody_may_write_what_was_saved(saved: SavedState) -> None:
    assert {path.stat().st_mode & 0o777 for path in (saved.memory, saved.state)} == {0o444}


def test_the_digest_does_not_depend_on_where_the_holes_are(saved: SavedState) -> None:
    text = saved.memory.read_bytes()
    saved.memory.unlink()
    saved.memory.write_bytes(text)  # no holes now
    saved.check()


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def shorten(path: Path, count: int) -> None:
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - count)


DAMAGES: dict[str, Callable[[SavedState], object]] = {
    "a bit of the state is wrong": lambda s: flip(s.state, 500),
    "the state is cut short": lambda s: shorten(s.state, 1),
    "the state is empty": lambda s: shorten(s.state, s.state.stat().st_size),
    "the state is missing": lambda s: s.state.unlink(),
    "a bit of memory is wrong": lambda s: flip(s.memory, 3 * MIB + 4097),
    "a bit of unused memory is set": lambda s: flip(s.memory, 2 * MIB),
    "memory is cut short": lambda s: shorten(s.memory, 4096),
    "memory is longer": lambda s: shorten(s.memory, -4096),
    "memory is missing": lambda s: s.memory.unlink(),
    "the manifest is missing": lambda s: (s.directory / "manifest.json").unlink(),
    "the manifest is cut short": lambda s: shorten(s.directory / "manifest.json", 5),
    "the manifest is of another snapshot": lambda s: (s.directory / "manifest.json").write_text(
        json.dumps({"memory": {}, "state": {}})
    ),
    "the manifest is no object": lambda s: (s.directory / "manifest.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_snapshot_is_found_out(saved: SavedState, damage: str) -> None:
    DAMAGES[damage](saved)
    with pytest.raises(SnapshotUnusable, match=str(saved.directory)):
        saved.check()


def test_a_snapshot_without_a_state_is_never_complete(memory_fd: int, tmp_path: Path) -> None:
    saved = SavedState(tmp_path)
    with pytest.raises(FileNotFoundError):
        saved.complete(memory_fd)
    with pytest.raises(SnapshotUnusable):
        saved.check()


def test_a_disk_that_gets_full_in_the_middle_of_a_write_is_noticed(
    memory_fd: int, tmp_path: Path
) -> None:
    # Room for the state, two pieces of memory and a part of the third.
    save = (
        "import sys; from pathlib import Path; from harness.qemu.snapshot import SavedState; "
        "SavedState(Path(sys.argv[1])).complete(int(sys.argv[2]))"
    )
    script = f"""
        mount -t tmpfs -o size=160k none {tmp_path} && echo QEVM >{tmp_path}/state || exit
        {sys.executable} -c '{save}' {tmp_path} {memory_fd}; ls {tmp_path}
    """
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        pass_fds=[memory_fd],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "OSError: [Errno 28]" in done.stderr
    assert done.stdout.split() == ["memory", "state"]
