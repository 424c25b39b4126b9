"""The package pool: what stays in it when a root was made."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build.pool import Pool
from harness.build.roots import PACKAGES_FILE, used_packages
from harness.host.cache import Cache
from harness.host.progress import Progress


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", Progress(None))


def fetch(pool: Pool, *names: str) -> list[Path]:
    """Put packages into the pool, by the names that apt gives their files."""
    with pool.held():
        files = [pool.archives / name for name in names]
        for file in files:
            file.write_bytes(b"!<arch>")
    return files


def make_root(cache: Cache, name: str, packages: str) -> Path:
    def make(entry: Path, _log: Path) -> None:
        (entry / PACKAGES_FILE).write_text(packages)

    return cache.provide("kernel", name, "0123456789abcdef", make)


def test_what_a_root_is_made_of_stays_and_what_is_superseded_goes(cache: Cache) -> None:
    make_root(cache, "one", "make 4.4.1-2\ngcc 4:14.2.0-1\n")
    make_root(cache, "two", "make 4.3-4.1\n")
    pool = Pool(cache)
    files = fetch(
        pool,
        "gcc_4%3a14.2.0-1_amd64.deb",
        "make_4.4.1-2_amd64.deb",
        "make_4.3-4.1_amd64.deb",
        "gcc_4%3a13.9.0-1_amd64.deb",
        "partial/make_4.4.1-1_amd64.deb",
    )
    pool.drop_all_but(used_packages(cache))
    assert [file.exists() for file in files] == [True, True, True, False, False]


def test_a_root_that_another_run_is_completing_keeps_its_packages(cache: Cache) -> None:
    entry = make_root(cache, "one", "make 4.4.1-2\n")
    entry.rename(entry.with_name(f"{entry.name}.partial"))
    assert used_packages(cache) == {"make 4.4.1-2"}


def test_a_root_that_is_replaced_needs_no_packages(cache: Cache) -> None:
    old = make_root(cache, "one", "make 4.4.1-1\n")
    new = old.with_name(f"{old.name}.partial")
    new.mkdir()
    (new / PACKAGES_FILE).write_text("make 4.4.1-2\n")
    assert used_packages(cache, besides=old) == {"make 4.4.1-2"}


def test_a_removed_root_needs_no_packages(cache: Cache) -> None:
    make_root(cache, "one", "make 4.4.1-2\n")
    cache.forget("kernel", "one", "0123456789abcdef")
    assert used_packages(cache) == set()


def test_other_files_of_apt_stay(cache: Cache) -> None:
    pool = Pool(cache)
    lock, archive = fetch(pool, "lock", "make_4.4.1-2_amd64.deb")
    lists = pool.lists / "archive.example_Packages"
    lists.write_text("Package: make\n")
    pool.drop_all_but(set())
    assert [file.exists() for file in (lock, lists, archive)] == [True, True, False]
