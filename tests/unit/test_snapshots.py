"""What a snapshot is found by."""

from __future__ import annotations

import dataclasses
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
from harness.testbed.snapshots import Snapshots

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


def test_a_border_between_two_roundings_of_the_rate_makes_no_other_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = set()
    for rate in (2_596_000, 2_596_100, 2_400_000):
        monkeypatch.setattr(snapshots, "tsc_khz", lambda rate=rate: rate)
        keys.add(key(tmp_path))
    assert len(keys) == 2, "another host's rate does"
