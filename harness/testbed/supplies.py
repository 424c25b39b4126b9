"""What a test is given to work with: recipes by name, and the provisioner that makes them real."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from typing import Final, TextIO, TypeVar

from harness.build.provision import Provisioner
from harness.config.recipes import load_recipes
from harness.errors import ConfigError
from harness.host.cache import Cache, cache_directory
from harness.host.progress import Progress

T = TypeVar("T")

DEFAULT_KERNEL: Final = "debian-6.12"
DEFAULT_MACHINE: Final = "caching"


def make_provisioner(stream: TextIO | None = None) -> Provisioner:
    """Return the provisioner of the user's cache, which tells ``stream`` (stderr) how far it is.

    :raises ConfigError: a recipe is wrong, or the cache is nowhere.
    """
    cache = Cache(cache_directory(), Progress(stream or sys.stderr))
    return Provisioner(cache, load_recipes())


def choose(known: Mapping[str, T], name: str, *, what: str) -> T:
    """Return ``known[name]``.

    :raises ConfigError: there is none; the hint names those that there are.
    """
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(
        f"there is no {what} named {name!r}", hint=f"{meant}known: {', '.join(sorted(known))}"
    )
