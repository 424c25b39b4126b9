"""A directory that has the parts of a kernel tree, small enough to be put under git in no time."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

MAKEFILE = "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 107\nEXTRAVERSION = -rc1\n"
FILE = "kernel/irq/msi.c"

_ME = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "me"), ("EMAIL", "me@example.org"))
}


def make_tree(directory: Path) -> Path:
    """Make a tree that is under no version control, and return it."""
    for name in ("Kconfig", "Kbuild", "arch/x86/Makefile", "scripts/x", FILE):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"one\ntwo\n{name}\nfour\nfive\n")
    (directory / "Makefile").write_text(MAKEFILE)
    return directory


def git(tree: Path, *words: str) -> str:
    """Run a command of git in a tree, as its user would."""
    environment = {**os.environ, **_ME, "GIT_CONFIG_GLOBAL": os.devnull}
    argv = ["git", "-C", str(tree), *words]
    return subprocess.run(
        argv, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(tree: Path, message: str) -> str:
    """Commit all of a tree, which becomes a repository if it is none, and return the commit."""
    if not (tree / ".git").exists():
        git(tree, "init", "--quiet")
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message", message)
    return git(tree, "rev-parse", "HEAD")


def change(tree: Path, old: str, new: str) -> None:
    """Edit the tree's C file."""
    file = tree / FILE
    file.write_text(file.read_text().replace(old, new))
