"""The packaged sources of kernels, unpacked: real trees; and programs that are run on them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from harness.build.provision import Provisioner
from harness.build.roots import RootRecipe, Roots
from harness.host.deadline import Deadline
from harness.host.process import find_tool
from harness.host.process import run as run_process
from tests.unit.small_tree import git

CHECKOUT: Final = Path(__file__).parents[2]


def unpacked(provisioner: Provisioner, name: str, source: RootRecipe, *, repository: bool) -> Path:
    """Return the packaged source of a kernel."""

    def unpack(entry: Path, _log: Path) -> None:
        (tar,) = entry.glob("root/usr/src/linux-source-*.tar.xz")
        unpacking = Deadline(600, "unpacking the kernel's source")
        words = ["--extract", "--file", str(tar), "--directory", str(entry)]
        run_process([str(find_tool("tar")), *words], deadline=unpacking)
        shutil.rmtree(entry / "root")
        if repository:
            (tree,) = entry.glob("linux-source-*")
            git(tree, "init", "--quiet")
            git(tree, "config", "core.compression", "1")
            git(tree, "add", "--all", "--force")  # its .gitignore leaves everything out
            git(tree, "commit", "--quiet", "--message", "packaged")
            git(tree, "tag", "packaged")

    entry = Roots(provisioner.cache).provide(
        "source", name, source, unpack, sealed=lambda entry: [entry / "packages"]
    )
    (tree,) = entry.glob("linux-source-*")
    return tree


def imsh(*words: str | Path, **environment: str) -> tuple[int, str]:
    """Run imsh from the checkout, its progress shown, and return its status and its report."""
    return in_checkout("harness", *words, **environment)


def in_checkout(module: str, *words: str | Path, **environment: str) -> tuple[int, str]:
    """Run a Python program from the checkout, and return its status and what it printed."""
    # A worker's own environment would make the inner pytest believe that it is one, too.
    inherited = {name: value for name, value in os.environ.items() if name[:7] != "PYTEST_"}
    argv = [sys.executable, "-m", module, *map(str, words)]
    said = subprocess.run(
        argv, cwd=CHECKOUT, env=inherited | environment, stdout=subprocess.PIPE,
        text=True, check=False,
    )  # fmt: skip
    sys.stderr.write(said.stdout)  # shown when something fails
    return said.returncode, said.stdout
