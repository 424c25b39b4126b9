"""Root without being root: commands in a user namespace, where build roots are made and entered.

Only the caller's own user id is mapped (to 0), which needs neither root nor /etc/subuid. So
nothing in a build root can belong to anybody else: archives are unpacked without their owners.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from harness.errors import BuildError, LaunchError, MissingRequirement
from harness.host.deadline import Deadline
from harness.host.process import find_tool, run, tail_of_file

BUILD_DIRECTORY: Final = "/imsh"
"""Where a build root shows the directory it works on."""

MOUNT_POINTS: Final = ("dev", "proc", "tmp", BUILD_DIRECTORY[1:])
"""Directories that every root gets, because :func:`in_root` mounts there."""

_NAMESPACES_HINT: Final = (
    "allow unprivileged user namespaces: kernel.unprivileged_userns_clone=1 (older Debian), "
    "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), user.max_user_namespaces above 0; "
    "in a container, a seccomp profile that permits unshare and mount"
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


def as_root(argv: Sequence[str]) -> list[str]:
    """Return ``argv`` as root of new user, mount and process namespaces.

    The process namespace ends with its first process, so that nothing survives a killed run.
    """
    unshare = find_tool("unshare", package="util-linux")
    return [str(unshare), "--user", "--map-root-user", "--mount", "--pid", "--fork",
            "--kill-child", "--", *argv]  # fmt: skip


def in_root(root: Path, work: Path, argv: Sequence[str]) -> list[str]:
    """Return ``argv`` as a command in the build root ``root``, working in ``work``.

    ``work`` appears as ``/imsh``, which is also the command's working directory; nothing else is
    writable that outlives the command but the root itself.
    """
    # A root unpacked without root has no device nodes: bind the host's null over an empty /dev.
    script = """\
set -e
mount -t tmpfs -o mode=755 none "$1/dev"
touch "$1/dev/null"
mount --bind /dev/null "$1/dev/null"
mount --rbind /proc "$1/proc"
mount -t tmpfs none "$1/tmp"
mount --bind "$2" "$1/imsh"
"""
    inside = (
        f"export PATH=/usr/sbin:/usr/bin:/sbin:/bin; cd {BUILD_DIRECTORY}; exec {shlex.join(argv)}"
    )
    script += f'exec chroot "$1" /bin/sh -c {shlex.quote(inside)}\n'
    return as_root(["sh", "-c", script, "sh", str(root), str(work)])


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
    """Try what :func:`in_root` needs: become root, mount, and use a device node.

    :raises MissingRequirement: this machine forbids it; the hint says what to allow.
    """
    probe = (
        "mount -t tmpfs -o mode=755 none /tmp && touch /tmp/null && "
        "mount --bind /dev/null /tmp/null && echo > /tmp/null && chroot / true"
    )
    argv = as_root(["sh", "-c", probe])
    try:
        run(argv, deadline=Deadline(20, "the probe of user namespaces"), env=environment())
    except LaunchError as error:
        raise MissingRequirement(
            "an ordinary user cannot make user and mount namespaces here",
            hint=_NAMESPACES_HINT,
            evidence=error.evidence,
        ) from error
