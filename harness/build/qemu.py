"""QEMU: the one in ``IMSH_QEMU``, else the system's if it will do, else one of the archive's.

Whether one will do is found out by asking it over QMP for the devices that are needed, never by its
version. ``-device help`` is no way to ask: an unpacked QEMU looks for its modules in the host's
directory too, and aborts when it finds those of another version there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.build.roots import RootRecipe, Roots, read_packages
from harness.build.unpacked import LIBRARIES, loader_command
from harness.errors import BuildError, DeadlineExpired, LaunchError, MissingRequirement
from harness.host.cache import Cache, digest, digest_of_files
from harness.host.deadline import Deadline
from harness.host.process import run, running, tail_of_file
from harness.host.seal import content_digest
from harness.schema.convert import from_json, to_json

QEMU_VARIABLE: Final = "IMSH_QEMU"
"""Environment variable that names the QEMU program to use."""

_FORMAT: Final = 2
"""Raised when other questions are asked."""

PROGRAM: Final = "qemu-system-x86_64"
NEEDED_DEVICES: Final = ("vfio-user-pci", "intel-iommu")

_FIRMWARE: Final = ("usr/share/qemu", "usr/share/seabios")
_FIRMWARE_FILES: Final = ("bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin")
"""What our machines load of it (-machine q35, -kernel)."""


@dataclass(frozen=True, slots=True)
class QemuRecipe:
    """The packages that QEMU is unpacked from when the host has none that will do."""

    root: RootRecipe


@dataclass(frozen=True, slots=True)
class QemuBinary:
    """A QEMU that has the devices we need."""

    argv: tuple[str, ...]
    """How to start it; options follow."""
    version: str
    """What it says of itself over QMP: "11.1.3 (Debian 1:11.1.3+ds-1)"."""
    origin: str
    """Where it comes from, for reports: a path, or the package and its version."""
    digest: str
    """Stands for the bytes of the program, its libraries if they are its own, and its firmware."""


@dataclass(frozen=True, slots=True)
class _Answers:
    version: str
    missing: tuple[str, ...]
    data: tuple[str, ...]
    """Directories in which it looks for firmware."""
    program: str
    """Digest of the program's file."""


def provide_qemu(roots: Roots, cache: Cache, recipe: QemuRecipe) -> QemuBinary:
    """Return a QEMU, after fetching one if need be.

    :raises MissingRequirement: ``IMSH_QEMU`` is not a QEMU that has the needed devices.
    :raises BuildError: fetching failed, or what the recipe names will not do.
    """
    if binary := _of_host(cache):
        return binary
    entry = roots.provide("qemu", PROGRAM, recipe.root, _remember_answers, sealed=_loaded_files)
    return _unpacked(entry)


def find_qemu(roots: Roots, cache: Cache, recipe: QemuRecipe) -> QemuBinary | None:
    """Return the QEMU that :func:`provide_qemu` would, when it need not be fetched."""
    if binary := _of_host(cache):
        return binary
    entry = roots.find("qemu", PROGRAM, recipe.root)
    return _unpacked(entry) if entry else None


def _of_host(cache: Cache) -> QemuBinary | None:
    """Return the QEMU of the environment variable or the system's, None when there is none."""
    if given := os.environ.get(QEMU_VARIABLE):
        return _given(cache, given)
    if system := shutil.which(PROGRAM):
        return _system(cache, system)
    return None


def _given(cache: Cache, given: str) -> QemuBinary:
    path = shutil.which(given)
    if path is None:
        raise MissingRequirement(f"{QEMU_VARIABLE}={given!r} is not a program")
    answers = _ask_once(cache, path)
    if answers.missing:
        raise MissingRequirement(
            f"{given} ({QEMU_VARIABLE}), QEMU {answers.version}, "
            f"lacks {', '.join(answers.missing)}",
            hint=f"unset {QEMU_VARIABLE} to let imsh fetch one, or name QEMU 10.1 or later",
        )
    return _host_binary(path, answers)


def _system(cache: Cache, path: str) -> QemuBinary | None:
    try:
        answers = _ask_once(cache, path)
    except MissingRequirement:
        return None
    return None if answers.missing else _host_binary(path, answers)


def _host_binary(path: str, answers: _Answers) -> QemuBinary:
    firmware = [Path(place, name) for place in answers.data for name in _FIRMWARE_FILES]
    contents = digest(answers.program, digest_of_files(path for path in firmware if path.exists()))
    return QemuBinary((path,), answers.version, path, contents)


def _ask_once(cache: Cache, path: str) -> _Answers:
    """Return what a program of the host answers; it is asked again only when the file changes."""
    status = Path(path).stat()
    key = digest(_FORMAT, path, status.st_ino, status.st_size, status.st_mtime_ns,
                 status.st_ctime_ns, NEEDED_DEVICES)  # fmt: skip

    def make(entry: Path, _log: Path) -> None:
        _store(entry, _ask([path]))

    try:
        return _stored(cache.provide("probe", PROGRAM, key, make))
    except (LaunchError, DeadlineExpired) as error:
        raise MissingRequirement(
            f"{path} is not a QEMU that runs here", evidence=error.evidence
        ) from error


def _remember_answers(entry: Path, _log: Path) -> None:
    try:
        answers = _ask(_unpacked_argv(entry))
    except (LaunchError, DeadlineExpired) as error:
        raise BuildError("the unpacked QEMU does not run", evidence=str(error)) from error
    if answers.missing:
        raise BuildError(
            f"the unpacked QEMU {answers.version} lacks {', '.join(answers.missing)}",
            hint="images/qemu.yaml must name a suite with QEMU 10.1 or later",
        )
    _store(entry, answers)


def _unpacked(entry: Path) -> QemuBinary:
    package = next(
        (line for line in read_packages(entry) if line.startswith("qemu-system-x86 ")), "qemu"
    )
    return QemuBinary(
        _unpacked_argv(entry), _stored(entry).version, f"package {package}", content_digest(entry)
    )


def _unpacked_argv(entry: Path) -> tuple[str, ...]:
    """Return the command of an unpacked QEMU: its own loader, libraries and firmware."""
    root = entry / "root"
    loader = loader_command(root)
    program = root / "usr/bin" / PROGRAM
    if loader is None or not program.exists():
        raise BuildError(f"the packages of images/qemu.yaml bring no {PROGRAM} or no C library")
    firmware = [word for place in _FIRMWARE for word in ("-L", str(root / place))]
    return (*loader, str(program), *firmware)


def _loaded_files(entry: Path) -> list[Path]:
    """Return the files of an unpacked QEMU that a running one may have read."""
    root = entry / "root"
    places = [root / place for place in (*_FIRMWARE, *LIBRARIES)]
    files = {path.resolve() for place in places for path in place.rglob("*") if path.is_file()}
    files |= {Path(word).resolve() for word in _unpacked_argv(entry) if Path(word).is_file()}
    return sorted(path for path in files if path.is_relative_to(entry))


def _store(entry: Path, answers: _Answers) -> None:
    (entry / "answers.json").write_text(to_json(answers), encoding="utf-8")


def _stored(entry: Path) -> _Answers:
    return from_json(_Answers, (entry / "answers.json").read_text(encoding="utf-8"))


def _ask(argv: Sequence[str]) -> _Answers:
    """Start QEMU without a machine and ask for its version and the needed devices.

    :raises LaunchError: it ended, or it does not speak QMP.
    :raises DeadlineExpired: it said nothing.
    """
    deadline = Deadline(30, f"an answer of {argv[0]} over QMP")
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as stack:
        stack.enter_context(ours)
        stack.enter_context(theirs)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imsh-")))
        log = directory / "qemu.log"
        command = [*argv, "-machine", "none", "-nodefaults", "-display", "none",
                   "-chardev", f"socket,id=qmp,fd={theirs.fileno()}",
                   "-mon", "chardev=qmp,mode=control"]  # fmt: skip
        stack.enter_context(running(command, name="qemu", log=log, pass_fds=[theirs.fileno()]))
        theirs.close()
        ours.settimeout(deadline.remaining())
        stream = stack.enter_context(ours.makefile("rw", encoding="utf-8"))
        try:
            greeting = json.loads(stream.readline())["QMP"]["version"]
            _execute(stream, "qmp_capabilities", {})
            missing = [
                device
                for device in NEEDED_DEVICES
                if "error" in _execute(stream, "device-list-properties", {"typename": device})
            ]
            _execute(stream, "quit", {})
        except TimeoutError:
            raise deadline.error(tail_of_file(log)) from None
        except (OSError, ValueError, KeyError) as error:
            raise LaunchError(
                f"{argv[0]} does not speak QMP", evidence=tail_of_file(log)
            ) from error
    number = "{major}.{minor}.{micro}".format(**greeting["qemu"])
    package = greeting["package"]
    places = run([*argv, "-L", "help"], deadline=deadline, check=False).stdout.splitlines()
    return _Answers(
        version=f"{number} ({package})" if package else number,
        missing=tuple(missing),
        data=tuple(places),
        program=digest_of_files([Path(argv[0])]),
    )


def _execute(stream: Any, command: str, arguments: Mapping[str, str]) -> dict[str, Any]:
    """Return the reply to a command; events before it are skipped."""
    stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    stream.flush()
    while True:
        message: dict[str, Any] = json.loads(stream.readline())
        if "event" not in message:
            return message
