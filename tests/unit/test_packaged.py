"""Kernels from packages: what a root that is here says about its kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build.kernel import KernelArtifact
from harness.build.packaged import KIND, find_packaged
from harness.build.roots import PACKAGES_FILE, Roots, root_key
from harness.config.recipes import load_recipes
from harness.errors import BuildError
from harness.host.cache import Cache
from harness.host.progress import Progress

RELEASE = "6.12.107+deb13-cloud-amd64"
MIRROR = "http://mirror.invalid/debian"
RECIPE = load_recipes().kernels["debian-6.12"]


@pytest.fixture(autouse=True)
def _mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMSH_MIRROR", MIRROR)


def describe(directory: Path, packages: str, *releases: str) -> KernelArtifact:
    cache = Cache(directory, Progress(None))

    def make(entry: Path, _log: Path) -> None:
        (entry / "root/boot").mkdir(parents=True)
        for release in releases:
            (entry / "root/lib/modules" / release / "kernel").mkdir(parents=True)
            (entry / "root/boot" / f"vmlinuz-{release}").touch()
        (entry / PACKAGES_FILE).write_text(packages)

    cache.provide(KIND, RECIPE.name, root_key(RECIPE.packages, MIRROR), make)
    kernel = find_packaged(Roots(cache), RECIPE.name, RECIPE.packages)
    assert kernel
    return kernel


def test_a_kernel_has_the_version_of_its_package_and_is_compiled_for_by_its_root(
    tmp_path: Path,
) -> None:
    kernel = describe(tmp_path, f"gcc 14.2\nlinux-image-{RELEASE} 6.12.107-1\n", RELEASE)
    assert (kernel.release, kernel.version) == (RELEASE, "6.12.107-1")
    assert kernel.build == Path("/lib/modules", RELEASE, "build")
    assert kernel.toolchain.packages == ("gcc 14.2", f"linux-image-{RELEASE} 6.12.107-1")
    assert kernel.modules.is_relative_to(kernel.toolchain.root)


def test_another_compiler_makes_another_key(tmp_path: Path) -> None:
    one = describe(tmp_path / "one", "gcc 14.2\n", RELEASE)
    other = describe(tmp_path / "other", "gcc 14.3\n", RELEASE)
    assert one.key != other.key
    assert one.key == describe(tmp_path / "same", "gcc 14.2\n", RELEASE).key


@pytest.mark.parametrize("releases", [(), (RELEASE, "7.3.1-amd64")])
def test_packages_bring_exactly_one_kernel(tmp_path: Path, releases: tuple[str, ...]) -> None:
    with pytest.raises(BuildError, match=r"must bring one kernel") as caught:
        describe(tmp_path, "", *releases)
    assert all(release in caught.value.message for release in releases)
