"""Root without being root: commands in a user namespace, where build roots are made.

What runs there is apt and mmdebstrap; what a build root's own programs do is confined further, see
:mod:`harness.build.sandbox`.

Only the caller's own user id is mapped (to 0), which needs neither root nor /etc/subuid. So
nothing in a build root can belong to anybody else: archives are unpacked without their owners.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from harness.errors import BuildError, LaunchError, MissingRequirement
from harness.host.deadline import Deadline
from harness.host.process import find_tool, run, tail_of_file

MOUNT_POINTS: Final = ("dev", "proc", "tmp", "imsh")
"""Directories that every root gets: :mod:`harness.build.sandbox` mounts there."""

_NAMESPACES_HINT: Final = (
    "allow unprivileged user namespaces: kernel.unprivileged_userns_clone=1 (older Debian), "
    "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), user.max_user_namespaces above 0; "
    "in a container, a seccomp profile that permits unshare and mount"
)

_PROC_HINT: Final = (
    "build steps run where they see no process of the host; in a container, one whose /proc is not "
    "masked (docker: --security-opt systempaths=unconfined, podman: --security-opt unmask=ALL)"
)


def environment() -> dict[str, str]:
    """Return the variables that commands of this module need.

    ``chroot`` is not in the PATH of an ordinary user of Debian.
    """
    path = os.environ.get("PATH", os.defpath)
    return {
        "LC_ALL": "C",
        "PATH": f"{path}:/usr/sbin:/sbin",
        "TAR_OPTIONS": "--no-same-owner",
    }


def as_root(argv: Sequence[str], *more_namespaces: str) -> list[str]:
    """Return ``argv`` as root of new user, mount and process namespaces.

    :param more_namespaces: options of unshare(1) for others.

    The process namespace ends with its first process, so that nothing survives a killed run.
    """
    unshare = find_tool("unshare", package="util-linux")
    return [str(unshare), "--user", "--map-root-user", "--mount", "--pid", "--fork",
            "--kill-child", *more_namespaces, "--", *argv]  # fmt: skip


def run_step(
    argv: Sequence[str],
    *,
    step: str,
    log: Path,
    deadline: Deadline,
) -> None:
    """Run a command whose output goes to ``log``.

    :raises BuildError: it failed; the error names the step and carries the log's tail.
    """
    with log.open("a") as file:
        file.write(f"==> {step}\n")
    try:
        run(argv, log=log, deadline=deadline, env=environment())
    except LaunchError as error:
        raise BuildError(
            f"{step} failed", evidence=tail_of_file(log), hint=f"the whole log: {log}"
        ) from error


def check_namespaces() -> None:
    """Try what roots and build steps need: root, mounts, a network and a /proc of their own.

    :raises MissingRequirement: this machine forbids it; the hint says what to allow.
    """
    _try(["-t", "tmpfs", "none", "/tmp"], "user, mount and network namespaces", _NAMESPACES_HINT)
    _try(["-t", "proc", "none", "/proc"], "a process namespace with its own /proc", _PROC_HINT)


def _try(mount: Sequence[str], what: str, hint: str) -> None:
    argv = as_root(["mount", *mount], "--net", "--ipc", "--uts")
    try:
        run(argv, deadline=Deadline(20, "the probe of namespaces"), env=environment())
    except LaunchError as error:
        raise MissingRequirement(
            f"an ordinary user cannot make {what} here", hint=hint, evidence=error.evidence
        ) from error
