"""Where the recipes and the guest's sources are: in a checkout, or inside the installed package."""

from __future__ import annotations

from pathlib import Path

from harness.errors import MissingRequirement

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
