"""Rules about who may do what. The layers of imports are in pyproject.toml, [tool.importlinter]."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness

ROOT = Path(harness.__file__).parent

MODULES = sorted(path for path in ROOT.rglob("*.py") if "_data" not in path.parts)


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


@pytest.mark.parametrize(
    ("module", "owner"),
    [
        ("subprocess", "host/process.py"),
        ("asyncio", "qemu/qmp.py"),
        ("signal", "host/signals.py host/process.py"),
    ],
)
def test_only_its_owner_imports(module: str, owner: str) -> None:
    users = {str(path.relative_to(ROOT)) for path in MODULES if module in imports_of(path)}
    assert users <= set(owner.split())


def test_no_module_is_longer_than_five_hundred_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in MODULES
        if (count := len(path.read_text().splitlines())) > 500
    }
    assert long == {}


def test_every_specification_file_names_its_reference() -> None:
    without = [
        path.name
        for path in (ROOT / "spec").glob("*.py")
        if path.name not in {"__init__.py", "bitfield.py"}
        and not path.read_text().startswith("# Ref:")
    ]
    assert without == []
