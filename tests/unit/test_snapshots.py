"""What a snapshot is found by, and which stay in the cache."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Literal

import pytest

from harness.build.image import ImageArtifact
from harness.build.kernel import KernelArtifact
from harness.build.module import ModuleArtifact
from harness.build.provision import Guest
from harness.build.qemu import QemuBinary
from harness.build.toolchain import Toolchain
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.qemu.command import MachineSpec
from harness.testbed import snapshots
from harness.testbed.snapshots import KIND, Snapshots, forget_old

NAME = "debian-6.12-caching"


def entry(cache: Path, name: str, *, used: int) -> Path:
    path = cache / KIND / name
    path.mkdir(parents=True)
    (path / "memory").touch()
    os.utime(path, (used, used))
    return path


def test_the_snapshots_that_were_used_last_stay(tmp_path: Path) -> None:
    keys = [f"{number:016x}" for number in (7, 3, 9, 1)]  # names tell nothing of their age
    entries = [entry(tmp_path, f"{NAME}-{key}", used=1000 + age) for age, key in enumerate(keys)]
    forget_old(Cache(tmp_path, Progress(None)), NAME, keep=2)
    assert [path.exists() for path in entries] == [False, False, True, True]


def test_other_machines_and_half_made_ones_are_left_alone(tmp_path: Path) -> None:
    key = "0123456789abcdef"
    others = [f"{NAME}-xapic-{key}", f"debian-6.1-caching-{key}", f"{NAME}-{key}.partial"]
    entries = [entry(tmp_path, name, used=1) for name in others]
    forget_old(Cache(tmp_path, Progress(None)), NAME, keep=0)
    assert all((path / "memory").exists() for path in entries)


def test_a_cache_without_snapshots_has_none_to_forget(tmp_path: Path) -> None:
    forget_old(Cache(tmp_path, Progress(None)), NAME, keep=0)


# Keys.

QEMU = QemuBinary(("qemu",), "11.1.3", "package qemu", "digest")
SPEC = MachineSpec(name="caching", description="")


def key(directory: Path, qemu: QemuBinary = QEMU, spec: MachineSpec = SPEC) -> str:
    file = directory / "file"
    guest = Guest(
        KernelArtifact(
            name="k",
            release="0.1",
            version="0.1-1",
            key="",
            vmlinuz=file,
            modules=directory,
            build=directory,
            toolchain=Toolchain(directory, ()),
        ),
        ModuleArtifact("k", file, file, file),
        ImageArtifact("k", file, ()),
    )
    return Snapshots(Cache(directory, Progress(None)), qemu)._key(guest, spec, ())


def test_the_same_machine_has_the_same_snapshot(tmp_path: Path) -> None:
    assert key(tmp_path) == key(tmp_path)


def test_other_bytes_of_qemu_or_its_firmware_make_another_snapshot(tmp_path: Path) -> None:
    other = dataclasses.replace(QEMU, digest="other")
    assert key(tmp_path) != key(tmp_path, other)


@pytest.mark.parametrize(("accelerator", "matters"), [("kvm", True), ("tcg", False)])
def test_another_processor_makes_another_snapshot_under_kvm_only(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accelerator: Literal["kvm", "tcg"],
    matters: bool,
) -> None:
    spec = dataclasses.replace(SPEC, accelerator=accelerator)
    here = key(tmp_path, spec=spec)
    monkeypatch.setattr(snapshots, "processor", lambda: ("model: another",))
    assert (key(tmp_path, spec=spec) != here) is matters
