"""Guest kernels from a tree of the user's: checkout, series, configuration, build, artifact.

    <cache>/trees/NAME-KEY/                what is kept of one tree: see harness.build.checkout
    <cache>/trees/NAME-KEY/output-KEY/     objects of one configuration, reused from build to build
    <cache>/kernel/NAME-KEY/               a kernel that was built: image, modules, what a module of
                                           ours needs to be built against it
    <cache>/ccache/                        compiled objects, by content, of all trees

A kernel is found by the content of the tree and of the configuration: the same state is built once,
wherever it came from. It does not change when the tree is edited later.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.build.checkout import Checkout, open_checkout
from harness.build.kbuild import Kbuild
from harness.build.kconfig import parse_config, refused, timer_frequency
from harness.build.kernel import DEBUG, KernelArtifact, TreeSource
from harness.build.module_tree import copy_for_modules
from harness.build.roots import RootRecipe, Roots, read_packages
from harness.build.sandbox import SHOWN, Sandbox
from harness.build.series import Series, apply_series, commit_before, read_series
from harness.build.toolchain import Toolchain, host_toolchain
from harness.errors import ConfigError
from harness.host.cache import Cache, digest
from harness.host.resources import resource

KIND: Final = "kernel"
_TOOLCHAIN: Final = "toolchain"
_TREES: Final = "trees"

_FORMAT: Final = 1
"""Raised when this package makes another artifact of the same tree."""

_CONFIGS: Final = "guests/configs"
_FORMER: Final = "former"
"""Names that options had: see the file."""
_LOADED: Final = tuple(
    f"CONFIG_{name}" for name in ("VIRTIO_PCI", "VIRTIO_NET", "VIRTIO_CONSOLE", "HW_RANDOM_VIRTIO")
)
"""Options that may be modules: images/rootfs.yaml loads them."""


@dataclass(frozen=True, slots=True)
class TreeState:
    """One state of a tree: a commit of our repository of it."""

    commit: str
    content: str
    """The tree object: two commits with the same content are the same kernel."""
    version: str
    """What a reader calls it."""
    log: str = ""
    """The commit's message."""


class Trees:
    """Builds kernels from trees, in one cache.

    :param toolchain: what compiles them is made of.
    """

    def __init__(self, roots: Roots, sandbox: Sandbox, cache: Cache, toolchain: RootRecipe):
        self._roots = roots
        self._sandbox = sandbox
        self._cache = cache
        self._recipe = toolchain

    def provide(self, name: str, source: TreeSource) -> KernelArtifact:
        """Return the kernel of a tree as it is now, after building it if need be.

        :raises ConfigError: the tree, the revision, the series or the configuration will not do.
        :raises PatchDoesNotApply: a patch of the series does not.
        :raises CompileError: the tree does not build.
        """
        return self.build(name, source, self.states(source)[-1])

    def states(self, source: TreeSource, patches: int | None = None) -> list[TreeState]:
        """Return the states of a tree: its base, and then one for each patch of the series.

        :param patches: only so many of them.
        :raises ConfigError, PatchDoesNotApply: as :meth:`provide`.
        """
        series = self.series(source) if patches != 0 else Series(())
        with self.opened(source) as checkout:
            base = checkout.commit_of(source.revision)
            version = checkout.describe(source.revision)
            some = Series(series.patches[:patches], series.base)
            commits = [base, *apply_series(checkout.repository, base, some)]
            more = ["", *(f" + {n} patch{'es' * (n > 1)}" for n in range(1, len(commits)))]
            return [
                _state_of(checkout, commit, version + words)
                for commit, words in zip(commits, more, strict=True)
            ]

    def state_of(self, source: TreeSource, commit: str) -> TreeState:
        """Return the state that a commit is: one of the tree's repository, or one that stands in
        :meth:`states`.

        :raises ConfigError: there is no kernel tree.
        """
        with self.opened(source) as checkout:
            return _state_of(checkout, commit, commit[:12])

    def series(self, source: TreeSource) -> Series:
        """Return all patches of a source, without applying them.

        :raises ConfigError: there is no such series.
        """
        with self.opened(source) as checkout:
            each = [read_series(origin, checkout.users) for origin in source.series]
        base = next((series.base for series in each if series.base), None)
        return Series(tuple(patch for series in each for patch in series.patches), base)

    def base_in_branch(self, source: TreeSource) -> str | None:
        """Return the commit that a source's series is on top of in the tree's branch already.

        None when the branch does not have it.

        :raises ConfigError: there is no such series.
        """
        series = self.series(source)
        with self.opened(source) as checkout:
            users = checkout.users
            return commit_before(checkout.repository, users, series) if users else None

    @contextmanager
    def opened(self, source: TreeSource) -> Iterator[Checkout]:
        """Hold our checkout of a tree against other runs.

        :raises ConfigError: there is no kernel tree.
        """
        tree, directory = source.directory, self._directory(source)
        with self._cache.lock(f"tree-{directory.name}", f"a kernel of {tree}"):
            yield open_checkout(tree, directory)

    def build(self, name: str, source: TreeSource, state: TreeState) -> KernelArtifact:
        """Return the kernel of one state of a tree, after building it if need be.

        :raises ConfigError, CompileError: as :meth:`provide`.
        """
        toolchain = self._toolchain(source)
        text, whole = configuration(source)
        output = self._output(source, toolchain)

        def kbuild(log: Path) -> Kbuild:
            shown = self._directory(source) / "source"
            ccache = self._cache.directory / "ccache"
            return Kbuild(self._sandbox, toolchain, shown, output, ccache, log)

        def make(entry: Path, log: Path) -> None:
            with self.opened(source) as checkout:
                checkout.show(state.commit)
                output.mkdir(exist_ok=True)
                build = kbuild(log)
                check_configuration(build.configure(text, whole=whole), source)
                build.build()
                _harvest(build, entry)

        key = _key(state, text, output)
        entry = self._cache.provide(
            KIND, name, key, make, state=lambda log: kbuild(log).state(), sealed=_booted
        )
        return _describe(name, entry, state.version, toolchain)

    def find(self, name: str, source: TreeSource, state: TreeState) -> KernelArtifact | None:
        """Return the kernel of one state of a tree when it is here; nothing is built.

        :raises ConfigError: the configuration will not do.
        """
        if source.compiler != "host" and not self._roots.find(_TOOLCHAIN, _TREES, self._recipe):
            return None
        toolchain = self._toolchain(source)
        text, _ = configuration(source)
        key = _key(state, text, self._output(source, toolchain))
        entry = self._cache.find(KIND, name, key)
        return _describe(name, entry, state.version, toolchain) if entry else None

    def _toolchain(self, source: TreeSource) -> Toolchain:
        if source.compiler == "host":
            return host_toolchain("make", "ld", "flex", "bison", "bc", "depmod")
        entry = self._roots.provide(_TOOLCHAIN, _TREES, self._recipe, _finish)
        return Toolchain(entry / "root", read_packages(entry))

    def _output(self, source: TreeSource, toolchain: Toolchain) -> Path:
        """Return where objects go: kbuild itself sees to those that an edited option touches."""
        return self._directory(source) / f"output-{digest(source.config, toolchain.packages)}"

    def _directory(self, source: TreeSource) -> Path:
        tree = source.directory
        return self._cache.directory / "trees" / f"{tree.name}-{digest(str(tree))}"


def _key(state: TreeState, text: str, output: Path) -> str:
    return digest(_FORMAT, state.content, text, output.name)


def configuration(source: TreeSource) -> tuple[str, bool]:
    """Return the text of a source's configuration, and whether it is a whole one of the user's.

    :raises ConfigError: the user's file cannot be read, or is no configuration for our guests.
    """
    if (path := source.own_config) is None:
        return "".join(map(_fragment, [_FORMER, *_fragments(source)])), False
    try:
        text = path.read_text()
        options = parse_config(text)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(
            f"{path} is no kernel configuration: {error}",
            hint=f"a file that kconfig wrote (.config), or the word {DEBUG!r}",
        ) from error
    if options.get("CONFIG_X86_64") != "y":
        raise ConfigError(
            f"{path} is no configuration for x86-64: it lacks CONFIG_X86_64=y",
            hint="our guests are x86-64",
        )
    return text, True


def check_configuration(got: Mapping[str, str], source: TreeSource) -> None:
    """Look whether a kernel of this configuration can boot our initramfs and remap interrupts.

    :raises ConfigError: it cannot; names the options.
    """
    of, hint = "this tree", "give it a whole configuration of yours, with --kconfig FILE"
    if source.own_config:
        of = f"the configuration {source.config}"
        boot = resource(_CONFIGS) / "boot.config"
        hint = f"set them with what they depend on: scripts/kconfig/merge_config.sh .config {boot}"
    for name in _fragments(source):
        if lacking := refused(parse_config(_fragment(name)), got, modules=_LOADED):
            raise ConfigError(
                f"{of} lacks options that a guest needs (once kconfig has settled it)",
                evidence="\n".join(lacking),
                hint=hint,
            )


def _fragments(source: TreeSource) -> list[str]:
    """Return the fragments that are held against a configuration, or make it up."""
    if source.own_config:
        return ["boot"]
    return ["boot", "checks", *([DEBUG] if source.config == DEBUG else [])]


def _fragment(name: str) -> str:
    return (resource(_CONFIGS) / f"{name}.config").read_text()


def _state_of(checkout: Checkout, commit: str, version: str) -> TreeState:
    git = checkout.repository
    return TreeState(
        commit,
        git("rev-parse", f"{commit}^{{tree}}"),
        version,
        git("log", "-1", "--format=%B", commit),
    )


def _finish(entry: Path, _log: Path) -> None:
    """Do what the packages' own scripts would have done; they are not run."""
    (entry / "root/usr/bin/awk").symlink_to("mawk")


def _harvest(build: Kbuild, entry: Path) -> None:
    """Copy what a kernel is, and what a module is built against, out of a build's directory."""
    release = build.install_modules(entry)
    output = build.output
    shutil.copy(output / "arch/x86/boot/bzImage", entry / "vmlinuz")
    shutil.copy(output / ".config", entry / "config")
    copy_for_modules(build.source, entry / "tree", output, entry / "build")
    (entry / "release").write_text(release)


def _memory_factor(options: Mapping[str, str]) -> int:
    return 4 if options.get("CONFIG_KASAN") == "y" else 1


def _booted(entry: Path) -> list[Path]:
    return [entry / "vmlinuz", *entry.glob("lib/modules/*/modules.*")]


def _describe(name: str, entry: Path, version: str, toolchain: Toolchain) -> KernelArtifact:
    release = (entry / "release").read_text()
    config = (entry / "config").read_text()
    return KernelArtifact(
        name=name,
        release=release,
        version=version,
        key=entry.name,
        vmlinuz=entry / "vmlinuz",
        modules=entry / "lib/modules" / release,
        build=Path(SHOWN / "build"),
        toolchain=toolchain,
        hz=timer_frequency(config),
        memory_factor=_memory_factor(parse_config(config)),
        shown={"tree": entry / "tree", "build": entry / "build"},
    )
