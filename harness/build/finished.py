# Ref: Linux kernel Documentation/arch/x86/boot.rst (the header of a bzImage);
#      Documentation/kbuild/modules.rst
"""Guest kernels that somebody has built already: an image, its modules, and their build directory.

Both layouts are known by the link ``build`` of a modules directory, which ``make modules_install``
and the packages of distributions set alike: it leads to what modules are built against, an output
directory of kbuild or headers. Our module is built there by the host's own compiler, as a module of
the user's would be: the tools of a build directory run where it was made.
"""

from __future__ import annotations

import re
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Final

from harness.build.kconfig import timer_frequency
from harness.build.kernel import FinishedBuild, KernelArtifact
from harness.build.toolchain import host_toolchain
from harness.errors import ConfigError
from harness.host.cache import Cache, digest, digest_of_files

KIND: Final = "kernel"

_HEADER: Final = 0x202
_MAGIC: Final = b"HdrS"
_VERSION_POINTER: Final = 0x20E
_VERSION_BASE: Final = 0x200
_LISTS: Final = ("modules.dep", "modules.builtin")
_FOR_MODULES: Final = ("Makefile", ".config", "Module.symvers", "include/generated/autoconf.h")
"""What a build directory has that modules can be built in."""


def provide_finished(cache: Cache, name: str, build: FinishedBuild) -> KernelArtifact:
    """Return the kernel of a finished build, with a copy of its image: that may be built again.

    :raises ConfigError: a part is missing, or the parts do not belong together.
    :raises MissingRequirement: the host has no compiler.
    """

    def make(entry: Path, _log: Path) -> None:
        shutil.copy(build.image, entry / "vmlinuz")

    kernel = _examine(name, build)
    entry = cache.provide(KIND, name, kernel.key, make)
    return replace(kernel, vmlinuz=entry / "vmlinuz")


def find_finished(cache: Cache, name: str, build: FinishedBuild) -> KernelArtifact | None:
    """Return the kernel of a finished build when it is as it was when it was last provided.

    :raises ConfigError, MissingRequirement: as :func:`provide_finished`.
    """
    kernel = _examine(name, build)
    entry = cache.find(KIND, name, kernel.key)
    return replace(kernel, vmlinuz=entry / "vmlinuz") if entry else None


def image_version(image: Path) -> str:
    """Return the release that the header of a kernel image states.

    :raises ConfigError: it is no image that a boot loader takes.
    """
    try:
        with image.open("rb") as file:
            start = file.read(1 << 16)
    except OSError as error:
        raise ConfigError(f"{image}: {error.strerror}", hint="name a kernel image") from error
    if start[_HEADER : _HEADER + len(_MAGIC)] != _MAGIC:
        kind = "an ELF file" if start.startswith(b"\x7fELF") else "no bzImage"
        raise ConfigError(
            f"{image} is {kind}, and a machine boots a bzImage",
            hint="it is arch/x86/boot/bzImage in a build's output, /boot/vmlinuz-RELEASE of a "
            "distribution",
        )
    (pointer,) = struct.unpack_from("<H", start, _VERSION_POINTER)
    said = start[_VERSION_BASE + pointer :].partition(b"\0")[0].decode(errors="replace").split()
    return said[0] if pointer and said else ""


def build_directory(modules: Path) -> Path:
    """Return what modules for the kernel of a modules directory are built against.

    :raises ConfigError: it is not here; says how it gets here.
    """
    release = modules.name
    link = modules / "build"
    found = link.resolve()
    if not found.is_dir():
        leads = f"{link} leads to {found}, which is not here" if link.is_symlink() else (
            f"there is no {link}"
        )  # fmt: skip
        raise ConfigError(
            f"the test module cannot be built for {release}: {leads}",
            hint=f"install the headers of that kernel (linux-headers-{release}), or point the link "
            f"to the output directory of its build: ln -sfn OUTPUT {link}",
        )
    if missing := [part for part in _FOR_MODULES if not (found / part).exists()]:
        raise ConfigError(
            f"modules cannot be built in {found}: it has no {missing[0]}",
            hint="it has to be the output directory of a whole build (make bzImage modules), or "
            "the headers of a distribution",
        )
    return found


def _examine(name: str, build: FinishedBuild) -> KernelArtifact:
    """Return what a finished build is; its image is still where the user has it."""
    image, modules = build.image, build.modules_directory
    if missing := [part for part in _LISTS if not (modules / part).exists()]:
        raise ConfigError(
            f"{modules} is no modules directory: it has no {missing[0]}",
            hint="name lib/modules/RELEASE as `make modules_install` or a package has made it",
        )
    release, stated = modules.name, image_version(image)
    if stated != release:
        raise ConfigError(
            f"image and modules are of two kernels: {image} is {stated or 'of no release'}, "
            f"{modules} is of {release}",
            hint="name both from one build; `make modules_install` again after a new build",
        )
    headers = build_directory(modules)
    files = [path for path in sorted(modules.rglob("*")) if path.is_file()]
    stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    parts = digest_of_files([image, *(headers / part for part in _FOR_MODULES)])
    toolchain = host_toolchain("make")
    return KernelArtifact(
        name=name,
        release=release,
        version=f"{release}, built before",
        key=digest(parts, stamps, str(headers), toolchain.packages),
        vmlinuz=image,
        modules=modules,
        build=headers,
        toolchain=toolchain,
        hz=timer_frequency((headers / ".config").read_text(errors="replace")),
        shown={str(path): path for path in (headers, *_source_of(headers))},
    )


def _source_of(headers: Path) -> list[Path]:
    """Return the tree that an output directory is of: its Makefile names it."""
    includes = re.findall(r"(?m)^include (/\S+)/Makefile$", (headers / "Makefile").read_text())
    return [Path(tree) for tree in includes if Path(tree).is_dir()]
