"""The initramfs: module order and archive layout."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from harness.build.image import module_order, with_directories
from harness.build.module import source_files
from harness.errors import BuildError
from harness.host.cpio import Entry

# Lines of a 6.1 kernel's modules.dep and modules.builtin, shortened.
DEPENDENCIES = """\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/char/hw_random/virtio-rng.ko.xz: kernel/drivers/virtio/virtio_ring.ko \
kernel/drivers/virtio/virtio.ko
kernel/drivers/net/virtio_net.ko: kernel/net/core/failover.ko \
kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/net/core/failover.ko:
"""
BUILTIN = "kernel/drivers/virtio/virtio_pci.ko\n"


def test_a_module_comes_behind_what_it_needs_and_once() -> None:
    order = module_order(DEPENDENCIES, ["virtio_pci", "virtio_rng", "virtio-net"], BUILTIN)
    assert [Path(path).name for path in order] == [
        "virtio.ko",
        "virtio_ring.ko",
        "virtio-rng.ko.xz",
        "failover.ko",
        "virtio_net.ko",
    ]


def test_a_module_that_the_kernel_lacks_is_named() -> None:
    with pytest.raises(BuildError, match="no module virtio_blk"):
        module_order(DEPENDENCIES, ["virtio_blk"], BUILTIN)


def test_directories_come_ahead_of_their_content_and_once() -> None:
    entries = [
        Entry.file("usr/sbin/a", b""),
        Entry.file("usr/sbin/b", b""),
        Entry.file("init", b""),
    ]
    paths = [(entry.path, stat.S_ISDIR(entry.mode)) for entry in with_directories(entries)]
    assert paths == [
        ("usr", True),
        ("usr/sbin", True),
        ("usr/sbin/a", False),
        ("usr/sbin/b", False),
        ("init", False),
    ]


def test_two_things_on_one_path_are_refused() -> None:
    with pytest.raises(BuildError, match="two things in the image want the path bin/sh"):
        with_directories([Entry.file("bin/sh", b""), Entry.symlink("bin/sh", "busybox")])


def test_what_a_build_by_hand_left_is_no_source(tmp_path: Path) -> None:
    for name in ("a.c", "a.h", "Kbuild", "a.o", "a.mod.c", ".a.c", "imstest.ko", "notes.md"):
        (tmp_path / name).touch()
    assert [path.name for path in source_files(tmp_path)] == ["Kbuild", "a.c", "a.h"]
