"""The error tree: what its drawing says is what the classes are."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

import harness
from harness import errors
from harness.errors import HarnessError

Node = tuple[str, str, str, str]
"""Name of a class, of its base, of its verdict, of its module."""

ROW = re.compile(r"    ([│├└─ ]*)(\w+) {2,}([a-z-]+(?: [a-z]+)?)(?: {2,}.*?(?:\(([\w.]+)\))?)?")


def drawn(tree: str) -> set[Node]:
    """Return what a drawing says; one step to the right is four columns."""
    found: set[Node] = set()
    bases = ["Exception"]
    for row in filter(None, map(ROW.fullmatch, tree.splitlines())):
        indent, name, verdict, module = row.groups("errors")
        depth = len(indent) // 4 + 1
        found.add((name, bases[depth - 1], verdict, f"harness.{module}"))
        bases[depth:] = [name]
    return found


def real(cls: type[HarnessError] = HarnessError) -> Iterator[Node]:
    """Yield a class and all below it, as far as they are the harness's own."""
    if cls.__module__.startswith("harness."):
        assert cls.__base__
        yield cls.__name__, cls.__base__.__name__, str(cls.verdict), cls.__module__
    for subclass in cls.__subclasses__():
        yield from real(subclass)


@pytest.fixture(scope="module", autouse=True)
def all_modules() -> None:
    """A class is known to its base once its module is imported."""
    for module in pkgutil.walk_packages(harness.__path__, "harness."):
        if not module.name.endswith("__main__"):  # that is the program itself
            importlib.import_module(module.name)


def test_the_drawing_of_the_tree_is_the_tree() -> None:
    assert drawn(str(errors.__doc__)) == set(real())


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("time-out ", "harness failure "),
        ("(qemu.qmp)", "(qemu.machine)"),
        ("│   ├── GuestExit    ", "├── GuestExit        "),
        ("    ├── MonitorCommandError      harness failure", "    "),
    ],
    ids=["verdict", "module", "base", "class"],
)
def test_a_drawing_is_noticed_that_has_a_wrong(right: str, wrong: str) -> None:
    tree = str(errors.__doc__)
    assert right in tree
    assert drawn(tree.replace(right, wrong)) != set(real())
