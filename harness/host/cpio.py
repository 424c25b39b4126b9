# Ref: Linux kernel Documentation/driver-api/early-userspace/buffer-format.rst ("newc" cpio)
"""Writing "newc" cpio archives, the form in which the kernel takes an initramfs.

Archives may be put one behind the other: the kernel unpacks them in order, and a later file
replaces an earlier one. So an image is built once, and what differs per machine (its keys) is a
small archive behind it.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from harness.errors import HarnessError

MAGIC: Final = b"070701"
TRAILER: Final = "TRAILER!!!"
ALIGNMENT: Final = 4
ARCHIVE_ALIGNMENT: Final = 512
"""Archives are padded to this many bytes, so that the next one may follow at once."""

_FIELD_LIMIT: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory, symbolic link or device node, owned by root.

    ``mode`` holds the file type too (``stat.S_IFREG | 0o755``); prefer the constructors.
    ``data`` is the content, or a link's target. ``device`` is (major, minor).
    """

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)

    @classmethod
    def file(cls, path: str, data: bytes, permissions: int = 0o644) -> Entry:
        """Return a regular file."""
        return cls(path, stat.S_IFREG | permissions, data)

    @classmethod
    def directory(cls, path: str, permissions: int = 0o755) -> Entry:
        """Return a directory. Archives need their directories ahead of what is in them."""
        return cls(path, stat.S_IFDIR | permissions)

    @classmethod
    def symlink(cls, path: str, target: str) -> Entry:
        """Return a symbolic link."""
        return cls(path, stat.S_IFLNK | 0o777, target.encode())

    @classmethod
    def character_device(cls, path: str, major: int, minor: int, permissions: int = 0o600) -> Entry:
        """Return a character device node."""
        return cls(path, stat.S_IFCHR | permissions, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the archive of ``entries``, in their order; the same entries give the same bytes.

    :raises HarnessError: a path is absolute, empty or climbs out, or a file is 4 GiB or larger.
    """
    out = bytearray()
    for inode, entry in enumerate(entries, start=1):
        _check_path(entry.path)
        _append(out, inode, entry)
    _append(out, 0, Entry(TRAILER, 0))
    out += bytes(-len(out) % ARCHIVE_ALIGNMENT)
    return bytes(out)


def _check_path(path: str) -> None:
    parts = path.split("/")
    if not path or path == TRAILER or any(part in ("", ".", "..") for part in parts):
        raise HarnessError(f"{path!r} is no path for an archive: relative, and normalised")


def _append(out: bytearray, inode: int, entry: Entry) -> None:
    name = entry.path.encode() + b"\0"
    if len(entry.data) >= _FIELD_LIMIT:
        raise HarnessError(f"{entry.path}: {len(entry.data)} bytes do not fit into an archive")
    # fmt: off
    fields = (
        inode,
        entry.mode,
        0, 0,                                   # uid, gid
        2 if stat.S_ISDIR(entry.mode) else 1,   # nlink
        0,                                      # mtime: none, for equal bytes from equal input
        len(entry.data),
        0, 0,                                   # major and minor of the archived file's own device
        *entry.device,
        len(name),
        0,                                      # check sum: not in this form
    )
    # fmt: on
    out += MAGIC + b"".join(b"%08x" % field for field in fields) + name
    out += bytes(-len(out) % ALIGNMENT)
    out += entry.data
    out += bytes(-len(out) % ALIGNMENT)
