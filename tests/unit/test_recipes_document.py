"""docs/recipes.md has every key of every recipe, with type and default, and its examples load."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.build.image import ImageRecipe
from harness.build.kernel import FinishedBuild, KernelRecipe, TreeSource
from harness.build.qemu import QemuRecipe
from harness.build.roots import RootRecipe
from harness.config.matrix import Matrix
from harness.config.schema import _describe, loads
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.qemu.command import Iommu, MachineSpec
from harness.qemu.firmware import VireTable

TEXT = (Path(__file__).parents[2] / "docs/recipes.md").read_text()
SECTIONS = {
    KernelRecipe: "## A kernel",
    TreeSource: "### A kernel tree",
    FinishedBuild: "### A finished build",
    RootRecipe: "### A root",
    MachineSpec: "## A machine",
    Iommu: "### `iommu:`",
    VireTable: "### `vire:`",
    Matrix: "## A matrix",
    ImageRecipe: "## The image",
    QemuRecipe: "## QEMU",
    ImsFunctionSpec: "## A device",
}


def section(title: str) -> str:
    """Return what stands between a heading and the next one."""
    (found,) = re.findall(rf"(?ms)^{re.escape(title)}.*?(?=^##|\Z)", TEXT)
    return str(found)


def documented(recipe: Any) -> dict[str, tuple[str, str]]:
    """Return type and default by key, as the document has them."""
    rows = re.findall(r"(?m)^\| `(\w+)` \| ([^|]+) \| ([^|]*)", section(SECTIONS[recipe]))
    return {key: (kind, default.strip().strip("`")) for key, kind, default in rows}


def declared(recipe: Any) -> dict[str, tuple[str, Any]]:
    """Return type and default by key, as the dataclass has them."""
    hints = typing.get_type_hints(recipe)
    found = {}
    for field in dataclasses.fields(recipe):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found[field.name] = (_describe(hints[field.name]), default)
    return found


@pytest.mark.parametrize("recipe", SECTIONS, ids=lambda recipe: recipe.__name__)
def test_every_key_is_documented_with_its_type_and_default(recipe: Any) -> None:
    told, known = documented(recipe), declared(recipe)
    assert list(told) == list(known)
    for key, (kind, default) in known.items():
        assert told[key][0] == ("a root" if key == "root" else kind), key
        if key == "name":
            assert told[key][1] == "the file's name"
        elif default is dataclasses.MISSING:
            assert told[key][1] == "", key
        elif default is None:
            assert told[key][1] == "nothing", key
        else:
            value = list(default) if isinstance(default, tuple) else default
            assert yaml.safe_load(told[key][1]) == value, key


@pytest.mark.parametrize(
    ("recipe", "name"),
    [(KernelRecipe, "rt"), (MachineSpec, "four-cpus"), (Matrix, "nightly")],
    ids=["kernel", "machine", "matrix"],
)
def test_the_example_is_one(recipe: Any, name: str) -> None:
    example = re.search(r"(?m)(^    .*\n)+", section(SECTIONS[recipe]))
    assert example is not None
    text = re.sub("(?m)^    ", "", example[0])
    assert loads(text, recipe, file=f"{name}.yaml").description
