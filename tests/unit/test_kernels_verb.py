"""`imsh kernels`: what is built, and what an update says and leaves behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.build.kernel import KernelArtifact
from harness.build.packaged import KIND
from harness.build.roots import PACKAGES_FILE, root_key
from harness.build.toolchain import Toolchain
from harness.cli.kernels import describe_update
from harness.cli.main import main
from harness.testbed.supplies import DEFAULT_KERNEL, make_provisioner

MIRROR = "copy:/nowhere"
"""An archive out of reach."""
RELEASE = "6.12.107+deb13-cloud-amd64"


def kernel(image: str, gcc: str) -> KernelArtifact:
    packages = (f"gcc {gcc}", f"linux-image-{RELEASE} {image}")
    return KernelArtifact(
        name="k",
        release=RELEASE,
        version=image,
        key="",
        vmlinuz=Path("vmlinuz"),
        modules=Path("modules"),
        build=Path("build"),
        toolchain=Toolchain(Path("root"), packages),
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMSH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IMSH_MIRROR", MIRROR)
    return tmp_path / "cache"


@pytest.fixture
def built(cache: Path) -> Path:
    """The entry of a kernel that an earlier run has made of older packages."""
    provisioner = make_provisioner()
    recipe = provisioner.recipes.kernels[DEFAULT_KERNEL]

    def make(entry: Path, _log: Path) -> None:
        (entry / "root/lib/modules" / RELEASE / "kernel").mkdir(parents=True)
        (entry / "root/boot").mkdir()
        (entry / "root/boot" / f"vmlinuz-{RELEASE}").touch()
        (entry / PACKAGES_FILE).write_text(f"linux-image-{RELEASE} 6.12.107-1\n")

    return provisioner.cache.provide(KIND, recipe.name, root_key(recipe.packages, MIRROR), make)


def test_a_newer_kernel_is_told_by_both_versions() -> None:
    assert describe_update(kernel("6.12.107-1", "1"), kernel("6.12.110-1", "1")) == (
        "6.12.107-1 -> 6.12.110-1"
    )


def test_a_kernel_that_stays_is_the_newest() -> None:
    assert describe_update(kernel("6.12.107-1", "1"), kernel("6.12.107-1", "1")) == (
        "already the newest, 6.12.107-1"
    )


def test_newer_packages_around_the_same_kernel_are_named() -> None:
    assert describe_update(kernel("6.12.107-1", "1"), kernel("6.12.107-1", "2")) == (
        "still 6.12.107-1, with another gcc"
    )


@pytest.mark.usefixtures("cache")
def test_kernels_that_are_not_built_have_nothing_to_update(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["kernels", "--update"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{DEFAULT_KERNEL}: not built; `imsh build {DEFAULT_KERNEL}` makes it of the newest" in (
        "\n".join(lines)
    )
    assert len(lines) == len(make_provisioner().recipes.kernels)


@pytest.mark.usefixtures("built")
def test_an_update_is_confined_to_the_kernels_that_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["kernels", "--update", "debian-6.1"]) == 0
    assert capsys.readouterr().out.startswith("debian-6.1: not built")


@pytest.mark.usefixtures("built")
def test_one_wrong_name_updates_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "--update", DEFAULT_KERNEL, "debian-6.13"]) == 64
    said = capsys.readouterr()
    assert said.out == ""
    assert "there is no kernel named 'debian-6.13'" in said.err


@pytest.mark.skipif(not shutil.which("apt-get"), reason="needs apt, the host's package manager")
def test_an_archive_out_of_reach_ends_the_update_and_leaves_the_kernel(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kernels", "--update"]) == 2
    said = capsys.readouterr()
    assert f"{DEFAULT_KERNEL}:" not in said.out
    assert "apt-get update" in said.err
    assert main(["kernels", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[DEFAULT_KERNEL]["release"] == RELEASE


def test_a_list_for_scripts_and_an_update_exclude_each_other() -> None:
    with pytest.raises(SystemExit):
        main(["kernels", "--json", "--update"])
