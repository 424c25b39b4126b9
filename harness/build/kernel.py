"""Guest kernels, whatever they come from: what a recipe says, and what is here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from harness.build.roots import RootRecipe
from harness.build.toolchain import Toolchain

DEBUG: Final = "debug"
"""The word for a configuration that finds a kernel's own mistakes."""


@dataclass(frozen=True, slots=True)
class TreeSource:
    """A kernel tree of the user's, and how it is built."""

    path: str
    """The top of the tree, absolute or from the home directory (``~/linux``)."""
    revision: str | None = None
    """A commit of its repository; None: the tree as it is, with what is not committed."""
    series: tuple[str, ...] = ()
    """Put on top, in this order: an mbox, a directory of patches, or a range of commits."""
    config: str | None = None
    """A file with a whole configuration, or the word ``debug``: ours with lockdep, KASAN, kmemleak
    and the like. None: ours, the tree's tinyconfig and what the checks need."""
    compiler: Literal["packages", "host"] = "packages"
    """What compiles it: the packages of images/toolchain.yaml, or this machine's own programs."""

    def __post_init__(self) -> None:
        if not Path(self.path).expanduser().is_absolute():
            raise ValueError(f"the tree {self.path!r} is no absolute path, nor one from ~")

    @property
    def own_config(self) -> Path | None:
        """The user's configuration, if it is one of these."""
        return Path(self.config).expanduser() if self.config not in (None, DEBUG) else None

    @property
    def directory(self) -> Path:
        """The top of the tree."""
        return Path(self.path).expanduser().resolve()


@dataclass(frozen=True, slots=True)
class FinishedBuild:
    """A kernel that the user has built, or a distribution."""

    vmlinuz: str
    """The image that a boot loader takes, absolute or from the home directory."""
    modules: str
    """Its ``lib/modules/RELEASE``, likewise, with the link ``build`` in it."""

    def __post_init__(self) -> None:
        for path in (self.vmlinuz, self.modules):
            if not Path(path).expanduser().is_absolute():
                raise ValueError(f"{path!r} is no absolute path, nor one from ~")

    @property
    def image(self) -> Path:
        """The image."""
        return Path(self.vmlinuz).expanduser().resolve()

    @property
    def modules_directory(self) -> Path:
        """The modules."""
        return Path(self.modules).expanduser().resolve()


@dataclass(frozen=True, slots=True)
class KernelRecipe:
    """A guest kernel: one that the archive has, one from a tree, or one that is built already."""

    name: str
    description: str
    root: RootRecipe | None = None
    """Packages: the kernel, its headers, and the compiler that fits them."""
    tree: TreeSource | None = None
    finished: FinishedBuild | None = None

    def __post_init__(self) -> None:
        if [self.root, self.tree, self.finished].count(None) != 2:
            raise ValueError(
                "a kernel comes from packages (root), from a tree, or from a finished build "
                "(finished): state one"
            )

    @property
    def packages(self) -> RootRecipe:
        """The packages of a kernel that the archive has; only of such a one."""
        assert self.root is not None
        return self.root


@dataclass(frozen=True, slots=True)
class KernelArtifact:
    """A guest kernel that is here, and what compiles modules for it."""

    name: str
    release: str
    """What ``uname -r`` says in the guest."""
    version: str
    """Which one it is, for reports: its package's version, or what git says of its tree."""
    key: str
    """Stands for all that it was made of, in the keys of what is made for it."""
    vmlinuz: Path
    modules: Path
    """Its ``/lib/modules/<release>``, with a fresh modules.dep."""
    build: Path
    """Where the toolchain sees what a module is built against (kbuild's ``make -C``)."""
    toolchain: Toolchain
    hz: int | None = None
    """Its HZ, as far as that is known: in what ``lpj=`` is counted."""
    memory_factor: int = 1
    """How many times the memory of its machine it needs: what KASAN and kmemleak keep is a lot."""
    shown: Mapping[str, Path] = field(default_factory=dict)
    """What the toolchain has to be shown for that, by name below the sandbox's directory."""
