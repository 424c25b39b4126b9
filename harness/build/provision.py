"""Everything a guest needs, by one object: made at the first call, found at the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.build.finished import find_finished, provide_finished
from harness.build.image import ImageArtifact, ImageRecipe, find_image, provide_image
from harness.build.kernel import KernelArtifact, KernelRecipe, TreeSource
from harness.build.module import ModuleArtifact, find_module, provide_module
from harness.build.packaged import find_packaged, provide_packaged
from harness.build.qemu import QemuBinary, QemuRecipe, find_qemu, provide_qemu
from harness.build.roots import RootRecipe, Roots
from harness.build.sandbox import Sandbox
from harness.build.tree import Trees, TreeState
from harness.host.cache import Cache


@dataclass(frozen=True, slots=True)
class Recipes:
    """The recipes of a checkout or an installation; ``harness.config.recipes`` loads them."""

    qemu: QemuRecipe
    image: ImageRecipe
    kernels: dict[str, KernelRecipe]
    toolchain: RootRecipe
    """What compiles kernel trees."""


@dataclass(frozen=True, slots=True)
class Guest:
    """What a machine boots: a kernel, the module built for it, and the image around both."""

    kernel: KernelArtifact
    module: ModuleArtifact
    image: ImageArtifact


class Provisioner:
    """Provides artifacts from recipes, in one cache; safe for several threads and processes.

    Every method raises :class:`~harness.errors.BuildError` when a step fails (naming it, with its
    log's tail) and :class:`~harness.errors.MissingRequirement` when the host lacks something.
    """

    def __init__(
        self, cache: Cache, recipes: Recipes, states: Mapping[str, TreeState] | None = None
    ):
        self.cache = cache
        self.recipes = recipes
        self._roots = Roots(cache)
        self.sandbox = Sandbox(self._roots)
        self.trees = Trees(self._roots, self.sandbox, cache, recipes.toolchain)
        self.states = dict(states or {})
        """States of the recipes that name a tree, once seen: a run has one kernel of each."""

    def qemu(self) -> QemuBinary:
        """Return a QEMU that has the devices we need."""
        return provide_qemu(self._roots, self.cache, self.recipes.qemu)

    def kernel(self, recipe: KernelRecipe) -> KernelArtifact:
        """Return a guest kernel and what compiles for it.

        A tree is looked at once, and edits do not count from then on: see :attr:`states`.
        """
        if recipe.tree:
            return self.trees.build(recipe.name, recipe.tree, self._state(recipe.name, recipe.tree))
        if recipe.finished:
            return provide_finished(self.cache, recipe.name, recipe.finished)
        return provide_packaged(self._roots, recipe.name, recipe.packages)

    def refresh_kernel(self, recipe: KernelRecipe) -> KernelArtifact:
        """Return a guest kernel as its source has it now, replacing an older one that is here.

        A recipe of packages names no version: this is how a nightly follows the archive. No guest
        of the kernel may be running.
        """
        if recipe.tree:
            self.states.pop(recipe.name, None)
        if recipe.root is None:
            return self.kernel(recipe)
        return provide_packaged(self._roots, recipe.name, recipe.packages, newest=True)

    def module(self, kernel: KernelArtifact) -> ModuleArtifact:
        """Return the guest module and the control tool, built for a kernel."""
        return provide_module(self.sandbox, self.cache, kernel)

    def image(self, kernel: KernelArtifact, module: ModuleArtifact) -> ImageArtifact:
        """Return the initramfs for a kernel."""
        return provide_image(self._roots, self.cache, self.recipes.image, kernel, module)

    def guest(self, recipe: KernelRecipe) -> Guest:
        """Return a kernel, its module and its image."""
        kernel = self.kernel(recipe)
        module = self.module(kernel)
        return Guest(kernel, module, self.image(kernel, module))

    def find_qemu(self) -> QemuBinary | None:
        """Return the QEMU that :meth:`qemu` would, when it need not be fetched."""
        return find_qemu(self._roots, self.cache, self.recipes.qemu)

    def find_kernel(self, recipe: KernelRecipe) -> KernelArtifact | None:
        """Return a guest kernel when it is here."""
        if recipe.tree:
            state = self._state(recipe.name, recipe.tree)
            return self.trees.find(recipe.name, recipe.tree, state)
        if recipe.finished:
            return find_finished(self.cache, recipe.name, recipe.finished)
        return find_packaged(self._roots, recipe.name, recipe.packages)

    def find_guest(self, recipe: KernelRecipe) -> Guest | None:
        """Return what a machine boots when all of it is here and built from today's sources."""
        if (
            (kernel := self.find_kernel(recipe))
            and (module := find_module(self.cache, kernel))
            and (image := find_image(self._roots, self.cache, self.recipes.image, kernel, module))
        ):
            return Guest(kernel, module, image)
        return None

    def _state(self, name: str, source: TreeSource) -> TreeState:
        if name not in self.states:
            self.states[name] = self.trees.states(source)[-1]
        return self.states[name]
