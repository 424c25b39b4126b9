"""Where packages come from: what is read out of apt's configuration."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from harness.build import archive
from harness.build.archive import (
    Archive,
    IndexTarget,
    archive_uri,
    choose_target,
    os_release,
    parse_targets,
    signed_by,
)
from harness.build.provision import Provisioner
from harness.build.requirements import try_provisioning
from harness.config.recipes import load_recipes
from harness.host.cache import Cache
from harness.host.progress import Progress

# As apt 2.6 prints them, with other hosts.
LISTING = """\
http://security.example/debian-security/|bookworm-security|bookworm-security|/etc/apt/a.sources:2
http://archive.example/debian/|bookworm-updates|bookworm-updates|/etc/apt/a.sources:1
http://archive.example/debian/|stable|bookworm|/etc/apt/a.sources:1
http://other.example/tools/|nodistro|$(CODENAME)|/etc/apt/b.list:3
"""

DEB822 = """\
# The comment of a whole file is no entry.

Types: deb
URIs: http://archive.example/debian
Suites: bookworm
Signed-By: /usr/share/keyrings/one.gpg

Types: deb
URIs: http://security.example/debian-security
Signed-By: /usr/share/keyrings/two.gpg
"""

ONE_LINE = """\
# comment
deb [arch=amd64 signed-by=/usr/share/keyrings/one.gpg] http://archive.example/debian stable main
deb http://other.example/debian stable main
"""


def test_the_archive_of_the_hosts_own_release_is_chosen() -> None:
    targets = parse_targets(LISTING)
    chosen = choose_target(targets, {"ID": "debian", "VERSION_CODENAME": "bookworm"})
    assert chosen == IndexTarget(
        "http://archive.example/debian/", "stable", "bookworm", "/etc/apt/a.sources:1"
    )


@pytest.mark.parametrize(
    "release",
    [
        {"ID": "debian", "VERSION_CODENAME": "trixie"},
        {"ID": "other", "VERSION_CODENAME": "bookworm"},
    ],
    ids=["a release it does not serve", "another distribution"],
)
def test_no_archive_is_chosen_for(release: dict[str, str]) -> None:
    assert choose_target(parse_targets(LISTING), release) is None


def test_a_rolling_host_takes_the_first_archive() -> None:
    chosen = choose_target(parse_targets(LISTING), {"ID": "debian"})
    assert chosen is not None
    assert chosen.release == "bookworm-security"


@pytest.mark.parametrize(
    ("text", "number", "deb822", "path"),
    [
        (DEB822, 1, True, "/usr/share/keyrings/one.gpg"),
        (DEB822, 2, True, "/usr/share/keyrings/two.gpg"),
        (DEB822, 3, True, None),
        ("Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n", 1, True, None),
        (ONE_LINE, 2, False, "/usr/share/keyrings/one.gpg"),
        (ONE_LINE, 3, False, None),
        (ONE_LINE, 9, False, None),
    ],
)
def test_the_keyring_of_an_entry(text: str, number: int, deb822: bool, path: str | None) -> None:
    assert signed_by(text, number, deb822=deb822) == path


def test_os_release_is_unquoted(tmp_path: Path) -> None:
    file = tmp_path / "os-release"
    file.write_text("ID=debian\nNAME=\"Debian GNU/Linux\"\n# x\nVERSION_CODENAME='trixie'\n")
    assert os_release(file) == {
        "ID": "debian",
        "NAME": "Debian GNU/Linux",
        "VERSION_CODENAME": "trixie",
    }
    assert os_release(tmp_path / "absent") == {}


def test_a_source_names_its_keyring() -> None:
    archive = Archive("http://archive.example/debian", Path("/k.gpg"))
    assert archive.source("trixie") == (
        "deb [arch=amd64 signed-by=/k.gpg] http://archive.example/debian trixie main"
    )


@pytest.mark.skipif(not shutil.which("apt-get"), reason="needs apt, the host's package manager")
def test_an_archive_out_of_reach_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMSH_MIRROR", f"copy:{tmp_path}")
    provisioner = Provisioner(Cache(tmp_path, Progress(None)), load_recipes())
    answers = {item.name: item for item in try_provisioning(provisioner)}
    archive = answers["package archive"]
    assert archive.is_fatal
    assert str(tmp_path) in archive.detail
    assert "IMSH_MIRROR" in (archive.hint or "")


def test_apt_is_asked_for_the_archive_when_its_configuration_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMSH_MIRROR", raising=False)
    sources = tmp_path / "apt/a.sources"
    sources.parent.mkdir()
    sources.touch()
    answers = iter(["http://one.invalid", "http://two.invalid"])
    monkeypatch.setattr(archive, "_APT_DIRECTORY", sources.parent)
    monkeypatch.setattr(archive, "find_archive", lambda: Archive(next(answers), tmp_path))
    cache = Cache(tmp_path / "cache", Progress(None))
    cache.directory.mkdir()
    assert [archive_uri(cache) for _ in range(2)] == ["http://one.invalid"] * 2
    os.utime(sources, ns=(0, 0))
    assert archive_uri(cache) == "http://two.invalid"
    monkeypatch.setenv("IMSH_MIRROR", "http://three.invalid/")
    assert archive_uri(cache) == "http://three.invalid"
