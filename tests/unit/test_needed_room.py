"""How much room the doctor asks for: what is still to be made, and some for use."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.build import image, module, packaged, qemu, requirements
from harness.build.provision import Provisioner
from harness.build.requirements import (
    GUEST_MIB,
    KERNEL_MIB,
    QEMU_MIB,
    SHARED_MIB,
    SPARE_MIB,
    needed_mib,
    try_provisioning,
)
from harness.build.roots import PACKAGES_FILE, RootRecipe, root_key
from harness.config.recipes import load_recipes
from harness.host.cache import Cache
from harness.host.progress import Progress

MIRROR = "http://mirror.invalid/debian"
RELEASE = "6.12.107-cloud-amd64"


@pytest.fixture
def provisioner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Provisioner:
    """An empty cache and recipes of one kernel, on a host without QEMU."""
    monkeypatch.delenv("IMSH_QEMU", raising=False)
    monkeypatch.setenv("IMSH_MIRROR", MIRROR)
    monkeypatch.setenv("PATH", "/nowhere")
    recipes = load_recipes()
    name, recipe = next(iter(recipes.kernels.items()))
    one = dataclasses.replace(recipes, kernels={name: recipe})
    return Provisioner(Cache(tmp_path / "cache", Progress(None)), one)


def put(cache: Cache, kind: str, name: str, key: str, files: dict[str, str]) -> Path:
    """Put an entry into the cache, as a build would."""

    def make(entry: Path, _log: Path) -> None:
        for path, text in files.items():
            (entry / path).parent.mkdir(parents=True, exist_ok=True)
            (entry / path).write_text(text)

    return cache.provide(kind, name, key, make)


def put_root(cache: Cache, kind: str, name: str, recipe: RootRecipe, *files: str) -> Path:
    texts = dict.fromkeys(files, "") | {PACKAGES_FILE: ""}
    return put(cache, kind, name, root_key(recipe, MIRROR), texts)


def put_kernel(provisioner: Provisioner) -> None:
    (recipe,) = provisioner.recipes.kernels.values()
    boot, modules = f"root/boot/vmlinuz-{RELEASE}", f"root/lib/modules/{RELEASE}/kernel/x.ko"
    put_root(provisioner.cache, packaged.KIND, recipe.name, recipe.packages, boot, modules)


def put_guest(provisioner: Provisioner) -> None:
    """Put what is made for the kernel that is there."""
    cache, recipes = provisioner.cache, provisioner.recipes
    (recipe,) = recipes.kernels.values()
    programs = put_root(cache, "rootfs", "programs", recipes.image.root)
    there = provisioner.find_kernel(recipe)
    assert there
    put(cache, module.KIND, recipe.name, module._key(there), {})
    built = module.find_module(cache, there)
    assert built
    put(cache, image.KIND, recipe.name, image._key(recipes.image, there, built, programs), {})


def put_qemu(provisioner: Provisioner) -> None:
    entry = put_root(
        provisioner.cache,
        "qemu",
        qemu.PROGRAM,
        provisioner.recipes.qemu.root,
        "root/lib64/ld-linux-x86-64.so.2",
        f"root/usr/bin/{qemu.PROGRAM}",
    )
    qemu._store(entry, qemu._Answers("11.1.3", (), (), ""))


def test_an_empty_cache_needs_room_for_all(provisioner: Provisioner) -> None:
    assert needed_mib(provisioner) == SPARE_MIB + SHARED_MIB + QEMU_MIB + KERNEL_MIB + GUEST_MIB


def test_a_complete_cache_needs_room_for_use_only(provisioner: Provisioner) -> None:
    put_kernel(provisioner)
    put_guest(provisioner)
    put_qemu(provisioner)
    assert needed_mib(provisioner) == SPARE_MIB


def test_a_kernel_that_is_here_needs_a_module_and_an_image(provisioner: Provisioner) -> None:
    put_kernel(provisioner)
    put_qemu(provisioner)
    assert needed_mib(provisioner) == SPARE_MIB + GUEST_MIB


def test_each_further_kernel_needs_more(provisioner: Provisioner) -> None:
    (recipe,) = provisioner.recipes.kernels.values()
    both = {recipe.name: recipe, "own": dataclasses.replace(recipe, name="own")}
    recipes = dataclasses.replace(provisioner.recipes, kernels=both)
    more = needed_mib(Provisioner(provisioner.cache, recipes))
    assert more == needed_mib(provisioner) + KERNEL_MIB + GUEST_MIB


def test_a_qemu_that_was_named_and_will_not_do_may_have_to_be_fetched(
    provisioner: Provisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = needed_mib(provisioner)
    monkeypatch.setenv("IMSH_QEMU", "/nowhere/qemu")
    assert needed_mib(provisioner) == everything


@pytest.mark.parametrize(("spare", "fatal"), [(-1 << 40, False), (1 << 40, True)])
def test_the_disk_is_measured_against_it(
    provisioner: Provisioner, monkeypatch: pytest.MonkeyPatch, spare: int, fatal: bool
) -> None:
    monkeypatch.setattr(requirements, "SPARE_MIB", spare)
    answers = {item.name: item for item in try_provisioning(provisioner)}
    assert answers["disk space"].is_fatal is fatal
