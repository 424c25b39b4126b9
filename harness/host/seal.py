"""Seals: what the files of a cache entry held when it was completed, compared when it is used.

Looking at a file costs a stat: only one that has been touched since (another inode, size or time of
change) is read again. If it holds what it did, it is remembered as it is now; if not, the entry is
broken.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

SEAL: Final = "seal.json"
"""In an entry: digest and signature of each of its sealed files, written last."""

_Signature = list[int]


def all_files(entry: Path) -> list[Path]:
    """Return the regular files of an entry."""
    return [path for path in entry.rglob("*") if path.is_file() and not path.is_symlink()]


def seal(entry: Path, files: Iterable[Path]) -> None:
    """Seal files of an entry: from now on they are to stay what they are.

    :raises OSError: a file cannot be read, or the seal not be written.
    """
    _write(entry, {str(path.relative_to(entry)): _describe(path) for path in sorted(files)})


def broken(entry: Path) -> str | None:
    """Return what is wrong with an entry, None when its files are what they were."""
    try:
        sealed: dict[str, tuple[str, _Signature]] = json.loads((entry / SEAL).read_text())
        touched = [n for n, (_, then) in sealed.items() if _signature(f"{entry}/{n}") != then]
        for name in touched:
            now = _describe(entry / name)
            if now[0] != sealed[name][0]:
                return f"{name} is not what was made"
            sealed[name] = now
    except (OSError, ValueError) as error:
        return str(error)
    if touched:
        with contextlib.suppress(OSError):  # somebody else's cache: it is read again next time
            _write(entry, sealed)
    return None


def content_digest(entry: Path) -> str:
    """Return a key for the names and contents of the sealed files of an entry that is sound."""
    sealed = json.loads((entry / SEAL).read_text())
    contents = sorted((name, digest) for name, (digest, _) in sealed.items())
    return hashlib.sha256(repr(contents).encode()).hexdigest()


def _describe(path: Path) -> tuple[str, _Signature]:
    """Return digest and signature; a change while it is read shows in the next signature."""
    signature = _signature(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), signature


def _signature(path: Path | str) -> _Signature:
    found = os.stat(path)
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _write(entry: Path, sealed: dict[str, tuple[str, _Signature]]) -> None:
    fresh = entry / f"{SEAL}.{os.getpid()}"
    fresh.write_text(json.dumps(sealed))
    fresh.rename(entry / SEAL)
