"""The recipes of the project, loaded from ``images/`` and ``guests/kernels/``."""

from __future__ import annotations

from typing import Final

from harness.build.image import ImageRecipe
from harness.build.kernel import KernelRecipe
from harness.build.provision import Recipes
from harness.build.qemu import QemuRecipe
from harness.config.schema import load, load_directory
from harness.host.resources import resource

KERNELS: Final = "guests/kernels"
IMAGES: Final = "images"


def load_recipes() -> Recipes:
    """Return all recipes.

    :raises ConfigError: one of the files is wrong; names file, line and key.
    """
    images = resource(IMAGES)
    return Recipes(
        qemu=load(images / "qemu.yaml", QemuRecipe),
        image=load(images / "rootfs.yaml", ImageRecipe),
        kernels=load_directory(resource(KERNELS), KernelRecipe),
    )
