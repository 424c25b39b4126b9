"""Names that stand in files and on command lines: known, or "did you mean"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from harness.errors import ConfigError

T = TypeVar("T")


def choose(known: Mapping[str, T], name: str, *, what: str, also: Iterable[str] = ()) -> T:
    """Return ``known[name]``.

    :param what: what the name is of, e.g. "machine".
    :param also: names that would have been taken elsewhere, for the hint.
    :raises ConfigError: there is none; the hint names those that there are.
    """
    if name in known:
        return known[name]
    raise ConfigError(f"there is no {what} named {name!r}", hint=allowed(name, [*known, *also]))


def allowed(given: str, names: Iterable[str]) -> str:
    """Return a hint: which name was meant, if one is close, and all that there are."""
    names = sorted(names)
    near = difflib.get_close_matches(given, names, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{meant}known: {', '.join(names) or 'none'}"
