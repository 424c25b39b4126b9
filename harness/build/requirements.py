"""What provisioning needs of the host, tried one by one. ``imsh doctor`` shows it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from harness.build.archive import find_archive
from harness.build.namespace import check_namespaces
from harness.build.provision import Recipes
from harness.errors import LaunchError, MissingRequirement
from harness.host.deadline import Deadline
from harness.host.process import run
from harness.host.requirements import Diagnosis, attempt, attempt_tool, try_disk_space

DISK_MIB: Final = 3000
"""What QEMU, three kernels with their build roots, and the packages take: 2.1 GiB today."""

_APT_HELPER: Final = "/usr/lib/apt/apt-helper"


def try_provisioning(cache: Path, recipes: Recipes) -> Iterator[Diagnosis]:
    """Yield an answer for everything that filling the cache needs."""
    roots = [recipes.qemu.root, recipes.image.root, *(k.root for k in recipes.kernels.values())]
    suites = sorted({suite for root in roots for suite in root.suites})
    yield attempt_tool("apt-get", package="apt")
    yield attempt_tool("dpkg-deb", package="dpkg")
    yield attempt_tool("perl")
    yield attempt_tool("tar")
    yield attempt_tool("unshare", package="util-linux")
    yield attempt("user namespaces", _namespaces)
    yield attempt("archive keyring", lambda: str(find_archive().keyring))
    yield attempt("package archive", lambda: _reach_archive(suites))
    yield attempt("disk space", lambda: try_disk_space(cache, DISK_MIB))


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
