"""What a test is given to work with: recipes by name, and the provisioner that makes them real."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from harness.build.kernel import KernelRecipe
from harness.build.provision import Provisioner
from harness.config.recipes import load_recipes
from harness.host.cache import Cache, cache_directory
from harness.host.progress import Progress
from harness.testbed.trees import known_states

DEFAULT_KERNEL: Final = "debian-6.12"
DEFAULT_MACHINE: Final = "caching"


def make_provisioner(
    progress: Progress | None = None, *, more: Iterable[KernelRecipe] = ()
) -> Provisioner:
    """Return the provisioner of the user's cache.

    :param progress: who is told how far it is; by default standard error.
    :param more: kernels besides those that there are recipes of.
    :raises ConfigError: a recipe is wrong, or the cache is nowhere.
    """
    cache = Cache(cache_directory(), progress or Progress(sys.stderr))
    recipes = load_recipes()
    kernels = recipes.kernels | {recipe.name: recipe for recipe in more}
    return Provisioner(cache, replace(recipes, kernels=kernels), known_states())
