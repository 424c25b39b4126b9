# Ref: Linux kernel Documentation/filesystems/ramfs-rootfs-initramfs.rst; depmod's modules.dep(5)
"""The initramfs that guests boot: busybox, SSH, the drivers, the guest module and the control tool.

It is not compressed: the guest would have to unpack it, which costs an emulated CPU more than
reading a few more megabytes.
"""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from harness.build.kernel import KernelArtifact
from harness.build.module import ModuleArtifact
from harness.build.roots import RootRecipe, Roots, read_packages
from harness.build.unpacked import loader_command
from harness.errors import BuildError
from harness.host import cpio
from harness.host.cache import Cache, digest, digest_of_files
from harness.host.deadline import Deadline
from harness.host.process import run
from harness.host.resources import resource

KIND: Final = "image"
MODULE_LIST: Final = "lib/imsh/modules"
"""In the image: paths of the modules that init loads, one a line, in this order."""

_IMAGE: Final = "initramfs.cpio"
_INIT: Final = "images/rootfs/init"


@dataclass(frozen=True, slots=True)
class ImageRecipe:
    """What the initramfs holds besides our own parts. Paths in the image have no leading slash."""

    root: RootRecipe
    """Packages that the programs are taken from."""
    programs: dict[str, str]
    """Path in the image -> path in the root; the shared libraries come along."""
    modules: tuple[str, ...]
    """Kernel modules to load; their dependencies come along, built-in ones are left out."""
    links: dict[str, str] = field(default_factory=dict)
    """Path in the image -> target of a symbolic link."""
    files: dict[str, str] = field(default_factory=dict)
    """Path in the image -> text."""
    directories: tuple[str, ...] = ()
    """Further directories."""


@dataclass(frozen=True, slots=True)
class ImageArtifact:
    """An initramfs for ``kernel``; what differs per machine is a second archive behind it."""

    kernel: str
    initramfs: Path
    packages: tuple[str, ...]


def provide_image(
    roots: Roots,
    cache: Cache,
    recipe: ImageRecipe,
    kernel: KernelArtifact,
    module: ModuleArtifact,
) -> ImageArtifact:
    """Return the image for a kernel, after making it if need be.

    :raises BuildError: the kernel or the packages lack something that the recipe names.
    """
    root = roots.provide("rootfs", "programs", recipe.root)

    def make(entry: Path, _log: Path) -> None:
        content = [
            *_own_parts(recipe, module),
            *_programs(root / "root", recipe.programs),
            *_modules(kernel, recipe.modules, module),
        ]
        (entry / _IMAGE).write_bytes(cpio.archive(with_directories(content)))

    entry = cache.provide(KIND, kernel.name, _key(recipe, kernel, module, root), make)
    return ImageArtifact(kernel.name, entry / _IMAGE, read_packages(root))


def find_image(
    roots: Roots, cache: Cache, recipe: ImageRecipe, kernel: KernelArtifact, module: ModuleArtifact
) -> ImageArtifact | None:
    """Return the image for a kernel when it is made of today's parts."""
    root = roots.find("rootfs", "programs", recipe.root)
    if root is None:
        return None
    entry = cache.find(KIND, kernel.name, _key(recipe, kernel, module, root))
    return ImageArtifact(kernel.name, entry / _IMAGE, read_packages(root)) if entry else None


def module_order(dependencies: str, wanted: Iterable[str], builtin: str) -> list[str]:
    """Return the module files to load, each behind what it depends on.

    :param dependencies: text of modules.dep: ``path: path path ...``, nearest dependency first.
    :param builtin: text of modules.builtin.
    :raises BuildError: a module is neither there nor built in.
    """
    lines = (line.partition(":") for line in dependencies.splitlines())
    needs = {path: needed.split() for path, _, needed in lines}
    by_name = {_module_name(path): path for path in needs}
    built_in = {_module_name(path) for path in builtin.split()}
    order: list[str] = []
    for name in (wanted_name.replace("-", "_") for wanted_name in wanted):
        if name in by_name:
            path = by_name[name]
            order += [item for item in [*reversed(needs[path]), path] if item not in order]
        elif name not in built_in:
            raise BuildError(f"the kernel has no module {name}, nor is it built in")
    return order


def kernel_modules(kernel: KernelArtifact, wanted: Iterable[str]) -> dict[str, Path]:
    """Return the kernel's modules that an image loads, in order: path in the image -> file.

    :raises BuildError: the kernel lacks one.
    """
    try:
        order = module_order(
            (kernel.modules / "modules.dep").read_text(),
            wanted,
            (kernel.modules / "modules.builtin").read_text(),
        )
    except BuildError as error:
        raise BuildError(f"kernel {kernel.name}: {error.message}") from error
    return {f"lib/imsh/{_module_name(path)}.ko": kernel.modules / path for path in order}


def module_list(modules: Iterable[str]) -> cpio.Entry:
    """Return the file that tells init which modules to load: paths in the image, in order."""
    return cpio.Entry.file(MODULE_LIST, "".join(f"/{path}\n" for path in modules).encode())


def with_directories(entries: Iterable[cpio.Entry]) -> list[cpio.Entry]:
    """Return ``entries`` with the directories that lead to them, each ahead of its content.

    :raises BuildError: two entries have the same path.
    """
    found: dict[str, cpio.Entry] = {}
    for entry in entries:
        for parent in reversed(PurePosixPath(entry.path).parents[:-1]):
            found.setdefault(str(parent), cpio.Entry.directory(str(parent)))
        if entry.path in found and found[entry.path] != entry:
            raise BuildError(f"two things in the image want the path {entry.path}")
        found[entry.path] = entry
    return list(found.values())


def _own_parts(recipe: ImageRecipe, module: ModuleArtifact) -> list[cpio.Entry]:
    return [
        *[cpio.Entry.directory(path) for path in recipe.directories],
        # The kernel opens it for init before anything is mounted.
        cpio.Entry.character_device("dev/console", 5, 1),
        cpio.Entry.file("init", resource(_INIT).read_bytes(), 0o755),
        cpio.Entry.file("bin/imsctl", module.control.read_bytes(), 0o755),
        *[cpio.Entry.symlink(path, target) for path, target in recipe.links.items()],
        *[cpio.Entry.file(path, text.encode()) for path, text in recipe.files.items()],
    ]


def _programs(root: Path, programs: Mapping[str, str]) -> list[cpio.Entry]:
    libraries: set[Path] = set()
    entries = []
    for path, source in programs.items():
        file = root / source
        if not file.is_file():
            raise BuildError(f"images/rootfs.yaml: the packages bring no {source}")
        entries.append(cpio.Entry.file(path, file.read_bytes(), 0o755))
        libraries |= _libraries(root, file)
    for library in sorted(libraries):
        # Where the loader and the programs expect them, whatever the root's layout was.
        place = "lib64" if library.name.startswith("ld-linux") else "lib"
        entries.append(cpio.Entry.file(f"{place}/{library.name}", library.read_bytes(), 0o755))
    return entries


def _libraries(root: Path, program: Path) -> set[Path]:
    """Return the files that the loader of ``root`` would map for a program; none if static."""
    loader = loader_command(root)
    if loader is None or b"/ld-linux-x86-64.so.2\0" not in program.read_bytes():
        return set()
    listing = run(
        [*loader, "--list", str(program)],
        deadline=Deadline(30, f"the list of libraries of {program.name}"),
    ).stdout
    found = {Path(path) for path in re.findall(r"=> (/\S+)", listing)}
    return {Path(loader[0])} | {path for path in found if not path.name.startswith("ld-linux")}


def _modules(
    kernel: KernelArtifact, wanted: Iterable[str], module: ModuleArtifact
) -> list[cpio.Entry]:
    files = kernel_modules(kernel, wanted)
    contents = {path: read_module(file) for path, file in files.items()}
    contents[f"lib/imsh/{module.module.name}"] = module.module.read_bytes()
    return [
        *[cpio.Entry.file(path, data) for path, data in contents.items()],
        module_list(contents),
    ]


def _module_name(path: str) -> str:
    return PurePosixPath(path).name.partition(".")[0].replace("-", "_")


def read_module(path: Path) -> bytes:
    """Return a module as busybox's insmod takes it: not compressed.

    :raises BuildError: it is compressed in a way that is not known here.
    """
    match path.suffix:
        case ".ko":
            return path.read_bytes()
        case ".xz":
            return lzma.decompress(path.read_bytes())
        case ".gz":
            return gzip.decompress(path.read_bytes())
        case other:
            raise BuildError(f"{path.name}: cannot unpack modules compressed as {other}")


def _key(recipe: ImageRecipe, kernel: KernelArtifact, module: ModuleArtifact, root: Path) -> str:
    # The names of entries stand for their contents.
    built = (module.module.parent.name, kernel.key, root.name)
    ours = digest_of_files([resource(_INIT), Path(__file__)])
    return digest(recipe, built, ours)
