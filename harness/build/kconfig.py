# Ref: Linux kernel Documentation/kbuild/kconfig.rst; the format of .config is kconfig's own
"""Kernel configurations as text: what one sets, and what of a wish it did not take."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

_SET: Final = re.compile(r'(CONFIG_\w+)=(y|m|n|-?\w+|".*")')
_UNSET: Final = re.compile(r"# (CONFIG_\w+) is not set")

UNSET: Final = "n"
"""The value of an option that is not set, or that the tree does not know."""


def parse_config(text: str) -> dict[str, str]:
    """Return the options of a configuration or a fragment, by name with ``CONFIG_``.

    :raises ValueError: a line is none of kconfig's; names the line.
    """
    options: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if found := _SET.fullmatch(line.strip()):
            options[found[1]] = found[2]
        elif found := _UNSET.fullmatch(line.strip()):
            options[found[1]] = UNSET
        elif line.strip() and not line.startswith("#"):
            raise ValueError(f"line {number} is no line of a kernel configuration: {line[:60]!r}")
    return options


def timer_frequency(text: str) -> int | None:
    """Return HZ; None: the configuration, which may be anybody's, does not say."""
    found = re.search(r"^CONFIG_HZ=([1-9]\d*)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def refused(
    wanted: Mapping[str, str], got: Mapping[str, str], *, modules: Collection[str] = ()
) -> list[str]:
    """Return the options of ``wanted`` that ``got`` lacks, each as "CONFIG_X=y (it has m)".

    :param modules: options that may as well be modules: the image loads these.
    """
    lacking = []
    for name, value in wanted.items():
        has = got.get(name, UNSET)
        if has == value or (has == "y" and value == "m") or (has == "m" and name in modules):
            continue
        lacking.append(f"{name}={value}" + (f" (it has {has})" if has != UNSET else ""))
    return lacking
