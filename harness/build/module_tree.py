# Ref: Linux kernel Documentation/kbuild/modules.rst; scripts/package/install-extmod-build
"""What a module out of the tree is built against: the part of a tree and of its output for that.

A kernel in the cache keeps it beside the image, so that a module can be built for it whatever has
become of the tree. Files of the checkout are linked, not copied: git replaces files, it does not
write into them. Files of the output are copied.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ARCH: Final = "arch/x86"
_OF_SOURCE: Final = ("include", "scripts", f"{_ARCH}/include", f"{_ARCH}/scripts")
_OF_OUTPUT: Final = ("include", "scripts", f"{_ARCH}/include")
_OUTPUT_FILES: Final = (".config", "Makefile", "Module.symvers", "tools/objtool/objtool")
_LEAVE_OUT: Final = (".o", ".cmd", ".a")


def copy_for_modules(source: Path, to_source: Path, output: Path, to_output: Path) -> None:
    """Put the parts of a tree and of its output that modules need into new directories."""
    for path in _source_files(source):
        target = to_source / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            target.symlink_to(os.readlink(path))
        else:
            os.link(path, target)
    for path in _output_files(output):
        target = to_output / path.relative_to(output)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)


def _source_files(source: Path) -> Iterator[Path]:
    for part in _OF_SOURCE:
        yield from _files_below(source / part)
    for directory in (source, source / _ARCH):
        yield from directory.glob("Makefile*")
        yield from directory.glob("Kbuild*")


def _output_files(output: Path) -> Iterator[Path]:
    for part in _OF_OUTPUT:
        for path in _files_below(output / part):
            if path.suffix not in _LEAVE_OUT and not path.name.startswith("."):
                yield path
    for name in _OUTPUT_FILES:
        if (output / name).exists():
            yield output / name


def _files_below(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_symlink() or path.is_file())
