"""The dependency order of the packages, and the rules about who may do what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness

ROOT = Path(harness.__file__).parent

# A package imports packages in rows above its own; never a sibling in its row, never one below.
LAYERS = [
    {"errors"},
    {"spec"},
    {"host"},
    {"vfio_user", "remapping", "pci"},
    {"devices", "qemu", "guest", "build"},
    {"config", "report"},
    {"testbed"},
    {"doctor", "scenario", "pytest_plugin"},
    {"cli"},
    {"__main__"},
]
ROW = {package: row for row, packages in enumerate(LAYERS) for package in packages}

MODULES = sorted(path for path in ROOT.rglob("*.py") if "_data" not in path.parts)


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def violations(package: str, imported: Iterator[str] | list[str]) -> list[str]:
    found = []
    for name in imported:
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if top != "harness" or not target or target == package:
            continue
        if target not in ROW or ROW[target] >= ROW[package]:
            found.append(name)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_imports_only_layers_above_its_own(path: Path) -> None:
    if (package := package_of(path)) == "__init__":
        assert list(imports_of(path)) == []
        return
    assert violations(package, imports_of(path)) == []


def test_an_upward_import_and_a_sibling_import_are_seen() -> None:
    assert violations("devices", ["harness.testbed", "harness.spec.ims_function"]) == [
        "harness.testbed"
    ]
    assert violations("devices", ["harness.qemu.qmp"]) == ["harness.qemu.qmp"]


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
