"""What a change says most about: from the paths that it touches to rows of the capability table."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources

import yaml


@cache
def telling_table() -> dict[str, tuple[str, ...]]:
    """Return the rows by the beginnings of paths, in the order of the table."""
    text = resources.files("harness.validate").joinpath("telling.yaml").read_text()
    return {path: tuple(rows) for path, rows in yaml.safe_load(text).items()}


def telling_rows(paths: Iterable[str]) -> list[str]:
    """Return the rows that a change of these files is most likely to break, those first."""
    touched = list(paths)
    return list(
        dict.fromkeys(
            row
            for beginning, rows in telling_table().items()
            if any(path.startswith(beginning) for path in touched)
            for row in rows
        )
    )
