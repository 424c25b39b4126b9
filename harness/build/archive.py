# Ref: apt's sources.list(5), apt-get(8) indextargets, apt-secure(8)
"""The package archive: the one that the host's apt is configured with, or ``IMSH_MIRROR``.

The project names no host. Every suite that a recipe asks for comes from the archive that serves the
host's own release, and apt verifies it with the distribution's keyring.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import ConfigError, MissingRequirement
from harness.host.cache import Cache, digest
from harness.host.deadline import Deadline
from harness.host.process import find_tool, run

MIRROR_VARIABLE: Final = "IMSH_MIRROR"
"""Environment variable with the URL of a Debian archive (the directory that has ``dists``)."""

DISTRIBUTION: Final = "debian"
"""The distribution whose suites the recipes name."""

_KEYRINGS: Final = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
)
_KEYRING_HINT: Final = "install the package debian-archive-keyring"

_APT_DIRECTORY: Final = Path("/etc/apt")
_ARCHIVE: Final = "archive"

_FORMAT: Final = "$(REPO_URI)|$(RELEASE)|$(CODENAME)|$(SOURCESENTRY)"

_OPTION: Final = re.compile(
    r'Acquire::(?:(?:https?|ftp|tor)::.*|Check-Date|Check-Valid-Until|ForceIPv[46]) "(?!").*";'
)
"""Lines of ``apt-config dump`` about how archives are reached: proxies, certificates, clocks."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A package archive and what is needed to use it.

    ``options`` are lines of apt's configuration that the host has for reaching archives.
    """

    uri: str
    keyring: Path
    options: tuple[str, ...] = ()

    def source(self, suite: str) -> str:
        """Return the line of a sources.list for one suite."""
        return f"deb [arch=amd64 signed-by={self.keyring}] {self.uri} {suite} main"


@dataclass(frozen=True, slots=True)
class IndexTarget:
    """One suite of an archive that the host's apt knows; ``entry`` is ``file:number``."""

    uri: str
    release: str
    codename: str
    entry: str


def find_archive() -> Archive:
    """Return the archive to take packages from.

    :raises MissingRequirement: this host has no apt, no Debian archive, or no keyring.
    :raises ConfigError: ``IMSH_MIRROR`` is not a URL.
    """
    if platform.machine() != "x86_64":
        raise MissingRequirement(
            f"the packages are for x86_64, this machine is {platform.machine()}"
        )
    apt_get = find_tool("apt-get", package="apt")
    listing = run(
        [str(apt_get), "indextargets", "--format", _FORMAT, "Created-By: Packages"],
        deadline=Deadline(30, "apt-get indextargets"),
    )
    targets = parse_targets(listing.stdout)
    release = os_release(Path("/etc/os-release"))
    mine = choose_target(targets, release)
    uri = os.environ.get(MIRROR_VARIABLE, "")
    if uri and not re.fullmatch(r"[a-z+]+:/\S*", uri):
        raise ConfigError(f"{MIRROR_VARIABLE}={uri!r} is not a URL")
    if not uri:
        if mine is None:
            raise MissingRequirement(
                f"the host's apt is configured with no {DISTRIBUTION} archive that serves "
                f"{release.get('VERSION_CODENAME', 'this release')}",
                hint=f"set {MIRROR_VARIABLE} to the URL of a {DISTRIBUTION} archive",
            )
        uri = mine.uri
    config = run(
        [str(find_tool("apt-config", package="apt")), "dump"],
        deadline=Deadline(30, "apt-config dump"),
    )
    options = tuple(line for line in config.stdout.splitlines() if _OPTION.fullmatch(line))
    return Archive(uri.rstrip("/"), _find_keyring(mine), options)


def archive_uri(cache: Cache) -> str:
    """Return where the archive is, as a part of keys.

    apt, which takes most of a second to tell, is asked again when its configuration has changed.

    :raises MissingRequirement, ConfigError: as :func:`find_archive`.
    """
    if uri := os.environ.get(MIRROR_VARIABLE):
        return uri.rstrip("/")
    files = [Path("/etc/os-release"), *sorted(_APT_DIRECTORY.rglob("*"))]
    if given := os.environ.get("APT_CONFIG"):
        files.append(Path(given))
    signatures = [(str(path), path.stat().st_mtime_ns) for path in files if path.exists()]
    key = digest(signatures)
    if entry := cache.find("probe", _ARCHIVE, key):
        return (entry / _ARCHIVE).read_text()
    uri = find_archive().uri

    def make(entry: Path, _log: Path) -> None:
        (entry / _ARCHIVE).write_text(uri)

    if cache.directory.is_dir():  # who only looks does not make one
        cache.provide("probe", _ARCHIVE, key, make)
    return uri


def parse_targets(listing: str) -> list[IndexTarget]:
    """Return the targets in the output of ``apt-get indextargets`` in our format."""
    return [
        IndexTarget(*fields) for line in listing.splitlines() if len(fields := line.split("|")) == 4
    ]


def os_release(path: Path) -> dict[str, str]:
    """Return the variables of an os-release file (os-release(5)); empty when there is none."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.partition("=") for line in lines if re.match(r"\w+=", line))
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}


def choose_target(targets: Iterable[IndexTarget], release: Mapping[str, str]) -> IndexTarget | None:
    """Return the first target that serves the host's own release, None when none does.

    The updates and security suites do not count: they may be on other hosts. A rolling host (no
    codename in os-release) takes the first target.
    """
    if release.get("ID") != DISTRIBUTION:
        return None
    codename = release.get("VERSION_CODENAME")
    for target in targets:
        if codename is None or codename in (target.release, target.codename):
            return target
    return None


def signed_by(text: str, number: int, *, deb822: bool) -> str | None:
    """Return the Signed-By path of an entry in a sources file, None when it names no file.

    :param number: of the stanza in a deb822 file, of the line in a one-line file, from 1.
    """
    if deb822:
        body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        stanzas = [stanza for stanza in re.split(r"\n\s*\n", body) if stanza.strip()]
        lines = stanzas[number - 1 : number]
        found = re.search(r"(?im)^signed-by:\s*(/\S+)\s*$", lines[0]) if lines else None
    else:
        lines = text.splitlines()[number - 1 : number]
        found = re.search(r"(?i)\[[^]]*\bsigned-by=(/[^]\s,]+)", lines[0]) if lines else None
    return found[1] if found else None


def _find_keyring(target: IndexTarget | None) -> Path:
    """Return the file with the distribution's keys: the entry's own, else the well-known ones."""
    candidates = list(_KEYRINGS)
    if target:
        file, _, number = target.entry.rpartition(":")
        path = Path(file)
        if path.is_file() and number.isdigit():
            named = signed_by(path.read_text(), int(number), deb822=path.suffix == ".sources")
            candidates[:0] = [named] if named else []
    for candidate in candidates:
        if os.access(candidate, os.R_OK):
            return Path(candidate)
    raise MissingRequirement(
        f"the keyring of the {DISTRIBUTION} archive is not here: {', '.join(candidates)}",
        hint=_KEYRING_HINT,
    )
