# Ref: apt.conf(5), Dir::State::lists and Dir::Cache::archives
"""The package pool: what apt fetches, for every root that is made in one cache.

    <cache>/pool/lists/       package lists of the suites
    <cache>/pool/archives/    packages of the roots that are here, and of one that is being made

A complete root does not read them. They stay because roots share packages, and because a root that
is made anew fetches only what is newer then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from urllib.parse import unquote

from harness.host.cache import Cache


class Pool:
    """The pool of one cache."""

    def __init__(self, cache: Cache):
        self._cache = cache
        self.lists = cache.directory / "pool/lists"
        self.archives = cache.directory / "pool/archives"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the pool for one apt: it locks the pool anyway, and fails instead of waiting.

        :raises DeadlineExpired: another run holds it for half an hour.
        """
        with self._cache.lock("pool", "another root"):
            for directory in (self.lists, self.archives):
                (directory / "partial").mkdir(parents=True, exist_ok=True)
            yield

    def drop_all_but(self, needed: Collection[str]) -> None:
        """Remove packages, whole or partly fetched, that are not among ``needed``.

        :param needed: each as "name version"; the pool is held.
        """
        for path in self.archives.rglob("*.deb"):
            # apt quotes what a file name cannot have: gcc_4%3a14.2.0-1_amd64.deb.
            name, version, _ = unquote(path.name).split("_")
            if f"{name} {version}" not in needed:
                path.unlink()

    def size(self) -> int:
        """Return how many bytes are in the pool, while apt is at work or not."""
        total = 0
        for path in (*self.lists.rglob("*"), *self.archives.rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # apt has renamed it
                total += path.stat().st_size
        return total
