"""Guest kernels from packages: kernel, headers and compiler come in one root of its own suite."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from harness.build.kconfig import timer_frequency
from harness.build.kernel import KernelArtifact
from harness.build.roots import RootRecipe, Roots, read_packages
from harness.build.sandbox import SHOWN, Sandbox
from harness.build.toolchain import Toolchain
from harness.errors import BuildError
from harness.host.cache import digest
from harness.host.deadline import Deadline

KIND: Final = "kernel"


def provide_packaged(
    roots: Roots, name: str, recipe: RootRecipe, *, newest: bool = False
) -> KernelArtifact:
    """Return the kernel in a root, after fetching it if need be.

    :param newest: as the archive has it now. No guest of an older one may be running: it is
        replaced, as soon as the new one is complete.
    :raises BuildError: a step failed, or the packages hold no single kernel.
    :raises MissingRequirement: the host lacks something.
    """

    def finish(entry: Path, log: Path) -> None:
        kernel = _describe(name, entry)
        # The packages' own scripts would have done both; they are not run.
        awk = kernel.toolchain.root / "usr/bin/awk"
        if not awk.is_symlink():
            awk.symlink_to("mawk")
        Sandbox(roots).run_step(
            ["depmod", "--basedir", str(SHOWN / "root"), kernel.release],
            root=kernel.toolchain.root,
            writable={"root": kernel.toolchain.root},
            step=f"depmod {kernel.release}",
            log=log,
            deadline=Deadline(120, "depmod"),
        )

    def booted(entry: Path) -> list[Path]:
        kernel = _describe(name, entry)
        return [kernel.vmlinuz, *kernel.modules.glob("modules.*")]

    entry = roots.provide(KIND, name, recipe, finish, newest=newest, sealed=booted)
    return _describe(name, entry)


def find_packaged(roots: Roots, name: str, recipe: RootRecipe) -> KernelArtifact | None:
    """Return the kernel in a root when it is here; nothing is built."""
    entry = roots.find(KIND, name, recipe)
    return _describe(name, entry) if entry else None


def _describe(name: str, entry: Path) -> KernelArtifact:
    root = entry / "root"
    # A root with merged /usr shows the same directory twice.
    releases = {
        path.name: path
        for base in ("lib/modules", "usr/lib/modules")
        for path in root.glob(f"{base}/*")
        if (path / "kernel").is_dir()
    }
    if len(releases) != 1:
        found = ", ".join(releases) or "none"
        raise BuildError(
            f"kernel {name}: the packages must bring one kernel, they bring {found}",
            hint="linux-image and linux-headers packages must be of the same flavour and suite",
        )
    ((release, modules),) = releases.items()
    # 7.2 ships the image beside its modules, older packages in /boot.
    images = [
        path
        for path in (root / "boot" / f"vmlinuz-{release}", modules / "vmlinuz")
        if path.exists()
    ]
    if not images:
        raise BuildError(f"kernel {name}: the packages bring no vmlinuz of {release}")
    configs = [
        path for path in (root / "boot" / f"config-{release}", modules / "config") if path.exists()
    ]
    packages = read_packages(entry)
    return KernelArtifact(
        name=name,
        release=release,
        version=_version(release, packages),
        key=digest(entry.name, packages),
        vmlinuz=images[0],
        modules=modules,
        build=Path("/", modules.relative_to(root), "build"),
        toolchain=Toolchain(root, packages),
        hz=timer_frequency(configs[0].read_text()) if configs else None,
    )


def _version(release: str, packages: tuple[str, ...]) -> str:
    """Return the version of the package that the kernel image came in."""
    names = (f"linux-image-{release} ", f"linux-binary-{release} ")
    return next((line.split()[1] for line in packages if line.startswith(names)), release)
