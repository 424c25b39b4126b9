"""A kernel of the user's that is named on a command line, in the place of a recipe."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

from harness.build.kernel import DEBUG, FinishedBuild, KernelRecipe, TreeSource
from harness.build.tree import TreeState
from harness.errors import ConfigError

_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "--tree": {
        "metavar": "PATH",
        "help": "guest kernel: the one of this kernel tree, with what is not committed in it",
    },
    "--rev": {"metavar": "REV", "help": "of the tree, this commit instead of its work tree"},
    "--series": {
        "metavar": "WHAT",
        "action": "append",
        "default": [],
        "help": "put patches on top: an mbox, a directory, or a range of commits (repeatable)",
    },
    "--kconfig": {
        "metavar": "FILE",
        "help": f"build with this .config, or with the word {DEBUG}: ours with lockdep, KASAN, "
        "kmemleak (default: the smallest that the checks need)",
    },
    "--compiler": {
        "choices": ("packages", "host"),
        "help": "what compiles the tree: a root of packages (the default), or this machine's own",
    },
    "--vmlinuz": {
        "metavar": "FILE",
        "help": "guest kernel: this image, which is built already; with --modules",
    },
    "--modules": {
        "metavar": "DIR",
        "help": "its lib/modules/RELEASE, whose link build leads to its headers or its output",
    },
}

TREE_OPTIONS: Final = ("tree", "rev", "series", "kconfig", "vmlinuz", "modules", "compiler")
"""The options by the names of their values: the arguments of :func:`tree_recipe`."""
OWN_KERNEL: Final = ("tree", "vmlinuz")
"""Those that name a kernel of the user's."""


def add_tree_options(add: Callable[..., object], names: Iterable[str] = tuple(_OPTIONS)) -> None:
    """Declare the options; ``add`` is argparse's add_argument or pytest's addoption."""
    for name in names:
        add(name, **_OPTIONS[name])


def tree_recipe(
    path: str | None,
    revision: str | None,
    series: list[str],
    config: str | None,
    vmlinuz: str | None = None,
    modules: str | None = None,
    compiler: Literal["packages", "host"] | None = None,
) -> KernelRecipe | None:
    """Return the recipe that the options amount to; None when they name no kernel.

    :raises ConfigError: one is there without another that it needs.
    """
    if bool(vmlinuz) != bool(modules):
        raise ConfigError("a finished build is named by both, --vmlinuz FILE and --modules DIR")
    if path is None:
        of_tree = {
            "--rev": revision, "--series": series, "--kconfig": config, "--compiler": compiler
        }  # fmt: skip
        if given := [name for name, value in of_tree.items() if value]:
            raise ConfigError(f"{given[0]} is of a kernel tree: name that too, with --tree PATH")
        return _finished_recipe(vmlinuz, modules) if vmlinuz and modules else None
    if vmlinuz:
        raise ConfigError("--tree and --vmlinuz both name the guest kernel: give one")
    directory = Path(path).expanduser().resolve()
    own = config if config in (None, DEBUG) else str(Path(config).expanduser().resolve())
    patches = tuple(map(_absolute, series))
    source = TreeSource(str(directory), revision, patches, own, compiler or "packages")
    name = re.sub(r"[^\w.-]", "_", directory.name)
    return KernelRecipe(f"tree-{name}", f"the kernel tree {directory}", tree=source)


def _finished_recipe(vmlinuz: str, modules: str) -> KernelRecipe:
    image, directory = (Path(path).expanduser().resolve() for path in (vmlinuz, modules))
    build = FinishedBuild(str(image), str(directory))
    name = re.sub(r"[^\w.-]", "_", directory.name)
    return KernelRecipe(f"built-{name}", f"the kernel {image}", finished=build)


def tree_words(recipe: KernelRecipe) -> list[str]:
    """Return the words of a command line that name a kernel of the user's again."""
    if build := recipe.finished:
        return ["--vmlinuz", build.vmlinuz, "--modules", build.modules]
    if (tree := recipe.tree) is None:
        return []
    words = ["--tree", tree.path]
    words += ["--rev", tree.revision] if tree.revision else []
    words += [word for origin in tree.series for word in ("--series", origin)]
    words += ["--kconfig", tree.config] if tree.config else []
    return words + (["--compiler", "host"] if tree.compiler == "host" else [])


STATES_VARIABLE: Final = "IMSH_TREE_STATES"
"""Environment variable that says what the trees of a run are: for processes that are part of it."""


def states_text(states: Mapping[str, TreeState]) -> str:
    """Return states of trees, by the names of their recipes, as text for the variable."""
    return json.dumps({name: asdict(state) for name, state in states.items()})


def known_states() -> dict[str, TreeState]:
    """Return the states of trees that this process is told of by the one that has started it."""
    return read_states(os.environ.get(STATES_VARIABLE, "{}"))


def read_states(text: str) -> dict[str, TreeState]:
    """Return the states in what :func:`states_text` has made."""
    return {name: TreeState(**state) for name, state in json.loads(text).items()}


def _absolute(origin: str) -> str:
    """Return a series' place wherever it is read from; a range of commits stays as it is."""
    path = Path(origin).expanduser()
    return str(path.resolve()) if path.exists() else origin
