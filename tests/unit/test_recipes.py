"""The recipes that come with the project, and where they are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build.roots import RootRecipe, root_key
from harness.config.recipes import load_recipes
from harness.config.schema import loads
from harness.errors import ConfigError, MissingRequirement
from harness.host import resources
from harness.host.resources import resource


def test_every_recipe_loads() -> None:
    recipes = load_recipes()
    assert {"debian-6.1", "debian-6.12", "debian-backports"} <= recipes.kernels.keys()
    assert all(name == kernel.name for name, kernel in recipes.kernels.items())


def test_a_root_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml:1: a root needs at least one"):
        loads("suites: [trixie]\npackages: []\n", RootRecipe, file="x.yaml")


def test_roots_of_the_same_content_share_a_key() -> None:
    key = root_key(RootRecipe(("trixie",), ("gcc",)), "http://one.invalid")
    assert key == root_key(RootRecipe(("trixie",), ("gcc",)), "http://one.invalid")
    assert key != root_key(RootRecipe(("trixie",), ("gcc", "make")), "http://one.invalid")
    assert key != root_key(RootRecipe(("bookworm",), ("gcc",)), "http://one.invalid")
    assert key != root_key(RootRecipe(("trixie",), ("gcc",)), "http://other.invalid")


def test_an_installed_package_uses_the_data_it_carries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages/harness"
    for place in (package / "_data/images", package.parent / "images"):
        place.mkdir(parents=True)
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert resource("images") == package / "_data/images"


def test_an_incomplete_installation_is_told() -> None:
    with pytest.raises(MissingRequirement, match="nowhere is neither in"):
        resource("nowhere")
