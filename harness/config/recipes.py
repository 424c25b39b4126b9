"""The recipes of the project, and those of the user's own directory beside them.

    guests/kernels/   $IMSH_RECIPES/kernels/     guest kernels
    guests/machines/  $IMSH_RECIPES/machines/    machines
    guests/matrices/  $IMSH_RECIPES/matrices/    kernels and machines of a run of the tests
    images/                                      what is booted around the kernel

A file is a recipe, and its name is the recipe's. A name of ours cannot be used again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, TypeVar

from harness.build.image import ImageRecipe
from harness.build.kernel import KernelRecipe
from harness.build.provision import Recipes
from harness.build.qemu import QemuRecipe
from harness.build.roots import RootRecipe
from harness.config.matrix import Matrix
from harness.config.schema import load, load_directory
from harness.errors import ConfigError
from harness.host.resources import resource
from harness.qemu.command import MachineSpec

T = TypeVar("T")

RECIPES_VARIABLE: Final = "IMSH_RECIPES"
"""Environment variable that names a directory with recipes of the user's own."""

GUESTS: Final = "guests"
IMAGES: Final = "images"
KINDS: Final = ("kernels", "machines", "matrices")


def load_recipes() -> Recipes:
    """Return what can be provided.

    :raises ConfigError: one of the files is wrong; names file, line and key.
    """
    images = resource(IMAGES)
    return Recipes(
        qemu=load(images / "qemu.yaml", QemuRecipe),
        image=load(images / "rootfs.yaml", ImageRecipe),
        kernels=_load_all("kernels", KernelRecipe),
        toolchain=load(images / "toolchain.yaml", RootRecipe),
    )


def load_machines() -> dict[str, MachineSpec]:
    """Return the machines, by name.

    :raises ConfigError: as :func:`load_recipes`.
    """
    return _load_all("machines", MachineSpec)


def load_matrices() -> dict[str, Matrix]:
    """Return the matrices, by name.

    :raises ConfigError: as :func:`load_recipes`.
    """
    return _load_all("matrices", Matrix)


def _load_all(kind: str, cls: type[T]) -> dict[str, T]:
    ours = load_directory(resource(f"{GUESTS}/{kind}"), cls)
    if not (own := os.environ.get(RECIPES_VARIABLE)):
        return ours
    place = Path(own) / kind
    if not any((place.parent / each).is_dir() for each in KINDS):
        raise ConfigError(
            f"{RECIPES_VARIABLE}={own!r} is no directory of recipes",
            hint=f"it holds some of {', '.join(f'{each}/' for each in KINDS)}",
        )
    theirs = load_directory(place, cls) if place.is_dir() else {}
    if twice := sorted(ours.keys() & theirs.keys()):
        raise ConfigError(
            f"{place / twice[0]}.yaml: imsh has a recipe of that name", hint="choose another name"
        )
    return ours | theirs
