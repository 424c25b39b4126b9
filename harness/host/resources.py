"""Where the recipes and the guest's sources are: in a checkout, or inside the installed package."""

from __future__ import annotations

import contextlib
import functools
from importlib.metadata import version
from pathlib import Path

from harness.errors import HarnessError, MissingRequirement
from harness.host.deadline import Deadline
from harness.host.process import run

_PACKAGE = Path(__file__).resolve().parent.parent


def resource(relative: str) -> Path:
    """Return the path of a file or directory of the project, e.g. ``guests/kernels``.

    A wheel carries ``guests`` and ``images`` in ``harness/_data`` (pyproject.toml,
    force-include); in a checkout they stand beside the package. The wheel's place comes first,
    because beside an installed package there may be anything.

    :raises MissingRequirement: the installation is incomplete.
    """
    for root in (_PACKAGE / "_data", _PACKAGE.parent):
        if (path := root / relative).exists():
            return path
    raise MissingRequirement(
        f"{relative} is neither in {_PACKAGE / '_data'} nor in {_PACKAGE.parent}",
        hint="install imsh from a wheel or run it in a checkout",
    )


@functools.cache
def harness_version() -> str:
    """Return the version of imsh; of a checkout with its commit, and -dirty if it was changed."""
    number = version("imsh")
    checkout = _PACKAGE.parent
    if not (checkout / ".git").exists():
        return number
    with contextlib.suppress(HarnessError):  # no git, or somebody else's checkout
        describe = ("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
        argv = ["git", "--no-optional-locks", "-C", str(checkout), *describe]
        return f"{number} ({run(argv, deadline=Deadline(10, 'git describe')).stdout.strip()})"
    return number
