"""Which snapshots stay in the cache."""

from __future__ import annotations

import os
from pathlib import Path

from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.testbed.snapshots import KIND, forget_old

NAME = "debian-6.12-caching"


def entry(cache: Path, name: str, *, used: int) -> Path:
    path = cache / KIND / name
    path.mkdir(parents=True)
    (path / "memory").touch()
    os.utime(path, (used, used))
    return path


def test_the_snapshots_that_were_used_last_stay(tmp_path: Path) -> None:
    keys = [f"{number:016x}" for number in (7, 3, 9, 1)]  # names tell nothing of their age
    entries = [entry(tmp_path, f"{NAME}-{key}", used=1000 + age) for age, key in enumerate(keys)]
    forget_old(Cache(tmp_path, Progress(None)), NAME, keep=2)
    assert [path.exists() for path in entries] == [False, False, True, True]


def test_other_machines_and_half_made_ones_are_left_alone(tmp_path: Path) -> None:
    key = "0123456789abcdef"
    others = [f"{NAME}-xapic-{key}", f"debian-6.1-caching-{key}", f"{NAME}-{key}.partial"]
    entries = [entry(tmp_path, name, used=1) for name in others]
    forget_old(Cache(tmp_path, Progress(None)), NAME, keep=0)
    assert all((path / "memory").exists() for path in entries)


def test_a_cache_without_snapshots_has_none_to_forget(tmp_path: Path) -> None:
    forget_old(Cache(tmp_path, Progress(None)), NAME, keep=0)
