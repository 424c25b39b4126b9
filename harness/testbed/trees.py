"""A kernel tree that is named on a command line, in the place of a recipe."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from harness.build.kernel import DEBUG, KernelRecipe, TreeSource
from harness.build.tree import TreeState

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
}

TREE_OPTIONS: Final = ("tree", "rev", "series", "kconfig")
"""The options by the names of their values: the arguments of :func:`tree_recipe`."""


def add_tree_options(add: Callable[..., object]) -> None:
    """Declare the options; ``add`` is argparse's add_argument or pytest's addoption."""
    for name, words in _OPTIONS.items():
        add(name, **words)


def tree_recipe(
    path: str | None, revision: str | None, series: list[str], config: str | None
) -> KernelRecipe | None:
    """Return the recipe that the options amount to; None when they name no tree."""
    if path is None:
        return None
    directory = Path(path).expanduser().resolve()
    own = config if config in (None, DEBUG) else str(Path(config).expanduser().resolve())
    source = TreeSource(str(directory), revision, tuple(map(_absolute, series)), own)
    name = re.sub(r"[^\w.-]", "_", directory.name)
    return KernelRecipe(f"tree-{name}", f"the kernel tree {directory}", tree=source)


def tree_words(recipe: KernelRecipe) -> list[str]:
    """Return the words of a command line that name a recipe's tree again."""
    if (tree := recipe.tree) is None:
        return []
    words = ["--tree", tree.path]
    words += ["--rev", tree.revision] if tree.revision else []
    words += [word for origin in tree.series for word in ("--series", origin)]
    return words + (["--kconfig", tree.config] if tree.config else [])


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
