"""The archive writer, read back by the rules of the format."""

from __future__ import annotations

import stat

import pytest

from harness.errors import HarnessError
from harness.host.cpio import Entry, archive


def members(data: bytes) -> list[tuple[str, dict[str, int], bytes]]:
    """Parse newc archives written one behind the other, the way init/initramfs.c walks them."""
    # fmt: off
    names = ["ino", "mode", "uid", "gid", "nlink", "mtime", "filesize",
             "maj", "min", "rmaj", "rmin", "namesize", "chksum"]
    # fmt: on
    found = []
    at = 0
    while at < len(data):
        if data[at] == 0:  # padding between archives
            at += 1
            continue
        assert data[at : at + 6] == b"070701", data[at : at + 6]
        assert at % 4 == 0, "a header begins at a multiple of 4"
        numbers = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        header = dict(zip(names, numbers, strict=True))
        name_end = at + 110 + header["namesize"]
        assert data[name_end - 1] == 0, "the name ends with a null, which namesize counts"
        name = data[at + 110 : name_end - 1].decode()
        body = (name_end + 3) & ~3
        found.append((name, header, data[body : body + header["filesize"]]))
        at = (body + header["filesize"] + 3) & ~3
    return found


def test_a_file_keeps_its_name_mode_and_content() -> None:
    ((name, header, content), trailer) = members(archive([Entry.file("etc/x", b"hello", 0o600)]))
    assert (name, content) == ("etc/x", b"hello")
    assert header["mode"] == stat.S_IFREG | 0o600
    assert (header["uid"], header["gid"], header["nlink"]) == (0, 0, 1)
    assert trailer[0] == "TRAILER!!!"


@pytest.mark.parametrize("length", range(9))
def test_content_of_any_length_is_padded_to_four_bytes(length: int) -> None:
    entries = [Entry.file("a" * (length + 1), b"z" * length), Entry.file("b", b"after")]
    found = members(archive(entries))
    assert [(name, content) for name, _, content in found[:2]] == [
        ("a" * (length + 1), b"z" * length),
        ("b", b"after"),
    ]


def test_a_symbolic_link_holds_its_target() -> None:
    ((_, header, content), _) = members(archive([Entry.symlink("bin", "usr/bin")]))
    assert stat.S_ISLNK(header["mode"])
    assert content == b"usr/bin"


def test_a_device_node_holds_its_numbers() -> None:
    ((_, header, _), _) = members(archive([Entry.character_device("dev/console", 5, 1)]))
    assert stat.S_ISCHR(header["mode"])
    assert (header["rmaj"], header["rmin"]) == (5, 1)


def test_a_directory_has_two_links() -> None:
    ((_, header, _), _) = members(archive([Entry.directory("etc")]))
    assert (header["mode"], header["nlink"]) == (stat.S_IFDIR | 0o755, 2)


def test_archives_can_be_put_one_behind_the_other() -> None:
    both = archive([Entry.file("a", b"1")]) + archive([Entry.file("a", b"2")])
    contents = [content for name, _, content in members(both) if name == "a"]
    assert contents == [b"1", b"2"]


def test_equal_entries_give_equal_bytes() -> None:
    assert archive([Entry.file("a", b"1")]) == archive([Entry.file("a", b"1")])


@pytest.mark.parametrize("path", ["", "/etc", "a//b", "../a", "a/..", "./a", "a/", "TRAILER!!!"])
def test_a_path_that_is_not_relative_and_normalised_is_refused(path: str) -> None:
    with pytest.raises(HarnessError, match="no path for an archive"):
        archive([Entry.file(path, b"")])
