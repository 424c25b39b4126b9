"""What provisioning needs of the host, tried one by one. ``imsh doctor`` shows it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from harness.build.archive import find_archive
from harness.build.namespace import check_namespaces
from harness.build.provision import Recipes
from harness.errors import LaunchError, MissingRequirement
from harness.host.deadline import Deadline
from harness.host.process import run
from harness.host.requirements import Requirement, attempt, disk_space, tool

DISK_MIB: Final = 3000
"""What QEMU, three kernels with their build roots, and the packages take: 2.1 GiB today."""

_APT_HELPER: Final = "/usr/lib/apt/apt-helper"


def provisioning_requirements(cache: Path, recipes: Recipes) -> list[Requirement]:
    """Return an answer for everything that filling the cache needs."""
    roots = [recipes.qemu.root, recipes.image.root, *(k.root for k in recipes.kernels.values())]
    suites = sorted({suite for root in roots for suite in root.suites})
    return [
        tool("apt-get", package="apt"),
        tool("dpkg-deb", package="dpkg"),
        tool("perl"),
        tool("tar"),
        tool("unshare", package="util-linux"),
        attempt("user namespaces", _namespaces),
        attempt("archive keyring", lambda: str(find_archive().keyring)),
        attempt("package archive", lambda: _reach_archive(suites)),
        disk_space(cache, DISK_MIB),
    ]


def _namespaces() -> str:
    check_namespaces()
    return "made one, mounted in it and entered a root"


def _reach_archive(suites: Iterable[str]) -> str:
    """Fetch the signed index of every suite, by apt's own means (proxies, certificates)."""
    archive = find_archive()
    with tempfile.TemporaryDirectory(prefix="imsh-") as directory:
        for suite in suites:
            uri = f"{archive.uri}/dists/{suite}/InRelease"
            try:
                run(
                    [_APT_HELPER, "download-file", uri, f"{directory}/{suite}"],
                    deadline=Deadline(60, f"the index of {suite}"),
                )
            except LaunchError as error:
                raise MissingRequirement(
                    f"{archive.uri} does not give the index of {suite}",
                    hint="check the network and the host's apt configuration, or set IMSH_MIRROR "
                    "to the URL of an archive that has this suite",
                    evidence=error.evidence,
                ) from error
    return f"{archive.uri} serves {', '.join(suites)}"
