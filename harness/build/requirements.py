"""What provisioning needs of the host, tried one by one. ``imsh doctor`` shows it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from harness.build.archive import find_archive
from harness.build.namespace import check_namespaces
from harness.build.provision import Provisioner
from harness.errors import HarnessError, LaunchError, MissingRequirement
from harness.host.deadline import Deadline
from harness.host.process import run
from harness.host.requirements import Diagnosis, attempt, attempt_tool, try_disk_space

# What du says of the recipes' own, of the largest where there are several.
QEMU_MIB: Final = 172 + 36
"""A QEMU, and its packages in the pool."""
KERNEL_MIB: Final = 453 + 141
"""A kernel's build root, and its packages in the pool."""
GUEST_MIB: Final = 8 + 8
"""A kernel's module and image."""
SHARED_MIB: Final = 105 + 24 + 1
"""Package lists, what the programs of all images are taken from, and mmdebstrap."""
SPARE_MIB: Final = 1000
"""Snapshots (117 each; a run of the tests has two a kernel at least) and results (158)."""

_APT_HELPER: Final = "/usr/lib/apt/apt-helper"


def try_provisioning(provisioner: Provisioner) -> Iterator[Diagnosis]:
    """Yield an answer for everything that filling the cache needs."""
    recipes = provisioner.recipes
    kernels = [k.root or recipes.toolchain for k in recipes.kernels.values()]
    roots = [recipes.qemu.root, recipes.image.root, *kernels]
    suites = sorted({suite for root in roots for suite in root.suites})
    yield attempt_tool("apt-get", package="apt")
    yield attempt_tool("dpkg-deb", package="dpkg")
    yield attempt_tool("perl")
    yield attempt_tool("tar")
    yield attempt_tool("unshare", package="util-linux")
    yield attempt("user namespaces", _namespaces)
    yield attempt("archive keyring", lambda: str(find_archive().keyring))
    yield attempt("package archive", lambda: _reach_archive(suites))
    yield attempt(
        "disk space",
        lambda: try_disk_space(provisioner.cache.directory, needed_mib(provisioner)),
    )


def needed_mib(provisioner: Provisioner) -> int:
    """Return how many MiB the disk must have free: for what is still to be made, and for use."""
    recipes = provisioner.recipes.kernels.values()
    guests = [recipe for recipe in recipes if _lacks(provisioner.find_guest, recipe)]
    kernels = [recipe for recipe in guests if _lacks(provisioner.find_kernel, recipe)]
    roots = KERNEL_MIB * len(kernels) + QEMU_MIB * _lacks(provisioner.find_qemu)
    return SPARE_MIB + GUEST_MIB * len(guests) + roots + SHARED_MIB * (roots > 0)


def _lacks(find: Callable[..., object], *words: object) -> bool:
    """Return whether a piece is not there, or cannot be used: an answer of its own says why."""
    try:
        return find(*words) is None
    except HarnessError:
        return True


def _namespaces() -> str:
    check_namespaces()
    return "made them, and mounted a /proc in them"


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
