# Ref: mmdebstrap(1), --variant=extract; apt.conf(5)
"""Root directories made of distribution packages, by mmdebstrap's extract variant.

mmdebstrap is itself fetched from the archive. apt does the resolving, the downloading and the
verifying; no package is configured, so that no foreign code runs. What it fetches lies in a pool
that all roots share: an interrupted download goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.build.archive import Archive, archive_uri, find_archive
from harness.build.namespace import MOUNT_POINTS, as_root, run_step
from harness.build.pool import Pool
from harness.errors import BuildError, MissingRequirement
from harness.host.cache import Cache, digest
from harness.host.deadline import Deadline
from harness.host.process import find_tool
from harness.host.seal import all_files

TOOL_SUITE: Final = "trixie"
"""Where mmdebstrap is taken from: a perl script, which also runs on older hosts."""

PACKAGES_FILE: Final = "packages"
"""In an entry: one line "name version" for every package of the root."""

_FORMAT: Final = 2
"""Raised when this module or a caller's ``finish`` makes other roots of the same recipe."""

_SECONDS: Final = 1800.0

_COMMON_OPTIONS: Final = (
    'APT::Sandbox::User "root";',  # the namespace has no other user
    'APT::Update::Error-Mode "any";',  # else an archive out of reach is a warning
    'APT::Get::List-Cleanup "0";',  # lists of other suites lie beside these
    'Acquire::Languages "none";',
    'Acquire::Retries "3";',
    'Dir::Cache::pkgcache "";',  # 80 MB in every root
    'Dir::Cache::srcpkgcache "";',
)


@dataclass(frozen=True, slots=True)
class RootRecipe:
    """What a root is made of."""

    suites: tuple[str, ...]
    """Suites of the distribution's archive; a package comes from the first that has it."""
    packages: tuple[str, ...]
    """Packages to unpack, together with what they depend on."""

    def __post_init__(self) -> None:
        if not self.suites or not self.packages:
            raise ValueError("a root needs at least one suite and one package")


class Roots:
    """Makes roots in one cache."""

    def __init__(self, cache: Cache):
        self._cache = cache
        self._pool = Pool(cache)

    def provide(
        self,
        kind: str,
        name: str,
        recipe: RootRecipe,
        finish: Callable[[Path, Path], None] | None = None,
        *,
        newest: bool = False,
        sealed: Callable[[Path], Iterable[Path]] = all_files,
    ) -> Path:
        """Return the entry of a root, after making it if need be: ``root/`` and ``packages``.

        ``finish(entry, log)`` completes it, e.g. runs something in it. The key is the recipe and
        the archive: what that has newer today goes into a root that is there only if ``newest``
        asks for it. Then another is made, if there is anything newer, and replaces the one that is
        there.

        :param sealed: as for :meth:`Cache.provide <harness.host.cache.Cache.provide>`.

        :raises BuildError: a step failed; it names the step, and its evidence is the log's tail.
        :raises MissingRequirement: the host lacks something.
        """
        key = self.key(recipe)
        wanted = self._newest(f"{kind}-{name}-{key}", recipe) if newest else None

        def make(entry: Path, log: Path) -> None:
            self._make(recipe, entry, log, replaced=self.find(kind, name, recipe))
            if finish:
                finish(entry, log)

        def stale(entry: Path) -> bool:
            return wanted is not None and read_packages(entry) != wanted

        return self._cache.provide(
            kind, name, key, make, state=self._state(), stale=stale, sealed=sealed
        )

    def find(self, kind: str, name: str, recipe: RootRecipe) -> Path | None:
        """Return the entry of a root when it is there: None, too, when no archive can be named."""
        try:
            return self._cache.find(kind, name, self.key(recipe))
        except MissingRequirement:
            return None

    def key(self, recipe: RootRecipe) -> str:
        """Return the cache key of a root.

        :raises MissingRequirement, ConfigError: there is no archive to make it from.
        """
        return root_key(recipe, archive_uri(self._cache))

    def _make(self, recipe: RootRecipe, entry: Path, log: Path, *, replaced: Path | None) -> None:
        answer = entry / "answer"
        command = self._command(recipe, entry / "root", answer=answer)
        with self._pool.held():
            run_step(
                command,
                step=f"making a root of {', '.join(recipe.packages)} from {recipe.suites[0]}",
                log=log,
                deadline=Deadline(_SECONDS, "mmdebstrap"),
            )
            packages = _chosen_packages(answer)
            answer.unlink()
            (entry / PACKAGES_FILE).write_text("".join(f"{package}\n" for package in packages))
            self._pool.drop_all_but(used_packages(self._cache, besides=replaced))
        for name in MOUNT_POINTS:
            (entry / "root" / name).mkdir(exist_ok=True)

    def _newest(self, name: str, recipe: RootRecipe) -> tuple[str, ...]:
        """Return the packages that a root would have now. Only package lists are fetched."""
        answer = self._cache.directory / "logs" / f"{name}.newest.log"
        answer.parent.mkdir(parents=True, exist_ok=True)
        with (
            self._cache.progress.step(f"looking for newer packages: {name}"),
            tempfile.TemporaryDirectory(prefix="imsh-") as directory,
        ):
            command = self._command(recipe, Path(directory, "root"), "--simulate", "--verbose")
            with self._pool.held():
                answer.write_bytes(b"")
                run_step(
                    command,
                    step=f"looking for newer packages in {', '.join(recipe.suites)}",
                    log=answer,
                    deadline=Deadline(_SECONDS, "mmdebstrap"),
                )
                return _chosen_packages(answer)

    def _command(
        self, recipe: RootRecipe, root: Path, *more_options: str, answer: Path | None = None
    ) -> list[str]:
        """Return what makes a root; apt's choice of packages goes to the file ``answer``."""
        archive = find_archive()
        perl = find_tool("perl")
        script = self._provide_tool(archive)
        share = (
            'mkdir -p "$1"/var/cache/apt/archives && '
            f'mount --bind {shlex.quote(str(self._pool.archives))} "$1"/var/cache/apt/archives'
        )
        report = (
            'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --simulate --quiet=2 install '
            + shlex.join(recipe.packages)
            + (f" >{shlex.quote(str(answer))}" if answer else "")
        )
        options = self._options(archive)
        if len(recipe.suites) > 1:
            options.append(f'APT::Default-Release "{recipe.suites[0]}";')
        return as_root([
            str(perl),
            str(script),
            "--mode=root",
            "--variant=extract",
            "--architectures=amd64",
            f"--include={','.join(recipe.packages)}",
            # The shared package pool is not to be cleaned, and nothing is mounted for scripts that
            # do not run.
            "--skip=check/empty,check/signed-by,check/qemu,chroot/mount,cleanup/apt",
            *[f"--aptopt={option}" for option in options],
            f"--setup-hook={share}",
            f"--extract-hook={report}",
            *more_options,
            recipe.suites[-1],
            str(root),
            *[archive.source(suite) for suite in recipe.suites],
        ])  # fmt: skip

    def _options(self, archive: Archive) -> list[str]:
        lists = f'Dir::State::lists "{self._pool.lists}";'
        return [*_COMMON_OPTIONS, lists, *archive.options]

    def _provide_tool(self, archive: Archive) -> Path:
        """Return the mmdebstrap script, fetched from the archive if need be."""

        def make(entry: Path, log: Path) -> None:
            state = entry / "apt"
            for directory in ("archives/partial", "apt.conf.d", "preferences.d"):
                (state / directory).mkdir(parents=True)
            (state / "sources.list").write_text(archive.source(TOOL_SUITE) + "\n")
            (state / "status").touch()
            (state / "apt.conf").write_text("\n".join([
                'APT::Architecture "amd64";',
                'APT::Architectures { "amd64"; };',
                f'Dir::State "{state}";',
                f'Dir::State::status "{state}/status";',
                f'Dir::Cache "{state}";',
                f'Dir::Etc "{state}";',
                'Dir::Etc::sourceparts "-";',
                *self._options(archive),
            ]))  # fmt: skip
            config = f"APT_CONFIG={state}/apt.conf"
            with self._pool.held():
                for words in (["update"], ["download", "mmdebstrap"]):
                    run_step(
                        ["env", "-C", str(entry), config, "apt-get", "--quiet=2", *words],
                        step=f"apt-get {' '.join(words)} ({TOOL_SUITE})",
                        log=log,
                        deadline=Deadline(_SECONDS, "apt-get"),
                    )
            (package,) = entry.glob("mmdebstrap_*.deb")
            run_step(
                [str(find_tool("dpkg-deb", package="dpkg")), "--extract", str(package), str(entry)],
                step="unpacking mmdebstrap",
                log=log,
                deadline=Deadline(60, "dpkg-deb"),
            )
            shutil.rmtree(state)

        entry = self._cache.provide("tool", "mmdebstrap", digest(_FORMAT, TOOL_SUITE), make)
        return entry / "usr/bin/mmdebstrap"

    def _state(self) -> Callable[[Path], str]:
        """Return a function that says what mmdebstrap does and how much apt has fetched."""
        before = self._pool.size()
        most = 0  # what is superseded leaves the pool in the end

        def state(log: Path) -> str:
            nonlocal most
            most = max(most, self._pool.size() - before)
            done = re.findall(r"(?m)^I: (\w[^/\n]*)\.\.\.$", log.read_text(errors="replace"))
            return ", ".join([*done[-1:], f"{most / 1e6:.1f} MB fetched"])

        return state


def root_key(recipe: RootRecipe, uri: str) -> str:
    """Return the cache key of a root that is made from the archive at ``uri``."""
    return digest(_FORMAT, recipe, uri)


def read_packages(entry: Path) -> tuple[str, ...]:
    """Return the packages of a root's entry, each as "name version"."""
    return tuple((entry / PACKAGES_FILE).read_text().splitlines())


def used_packages(cache: Cache, *, besides: Path | None = None) -> set[str]:
    """Return the packages of all roots, complete or not, besides one: each as "name version"."""
    found: set[str] = set()
    for file in cache.directory.glob(f"*/*/{PACKAGES_FILE}"):
        # An entry that was just listed may be removed or completed by now.
        with contextlib.suppress(FileNotFoundError):
            if file.parent != besides:
                found.update(read_packages(file.parent))
    return found


def _chosen_packages(answer: Path) -> tuple[str, ...]:
    """Return what apt, when it simulates, says that it would install."""
    chosen = re.findall(r"(?m)^Inst (\S+) (?:\[\S*\] )?\((\S+)", answer.read_text())
    if not chosen:
        raise BuildError("apt did not say which packages it chose", hint=f"it said: {answer}")
    return tuple(f"{name} {version}" for name, version in sorted(set(chosen)))
