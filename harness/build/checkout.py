"""A kernel tree of the user's, held in a repository and a checkout of our own.

    <directory>/repository   our objects; the user's are read where they are (alternates)
    <directory>/index        what of the user's work tree is known already
    <directory>/source       the checkout that builds see

The user's tree and repository are only read. A build sees one state of the tree however it is
edited meanwhile, and from one state to the next only the files that differ are touched, so that
make compiles no more than these. A tree that is under no version control works as well.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.build.git import Git, users_git
from harness.errors import BuildError, ConfigError

_PARTS: Final = ("Makefile", "Kconfig", "Kbuild", "scripts", "kernel", "arch/x86/Makefile")
"""What a kernel tree for our guests has."""

_BUILT: Final = tuple(
    f":(exclude,glob){pattern}"
    for pattern in (
        "**/*.o", "**/*.a", "**/*.ko", "**/*.cmd", "**/*.mod", "**/*.mod.c", ".config*",
        "include/config/**", "include/generated/**", "arch/*/include/generated/**", "vmlinux*",
    )
)  # fmt: skip
"""What a build in a tree without git leaves there, as pathspecs: kbuild refuses a tree with it."""


_BESIDE: Final = ":(exclude)build"
"""Our results, when imsh is started in the tree, and what `make O=build` makes: a tree as it is
would be another one after each run. No kernel has a directory of that name at its top."""

_UNTOUCHED_BY_LINKS: Final = {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "core.trustctime",
    "GIT_CONFIG_VALUE_0": "false",
}
"""A kernel in the cache links files of the checkout (harness.build.module_tree), and that changes
their ctime: git would write them anew, and make compile whatever includes one of these headers."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """The repository and the checkout that we keep of one tree. Made by :func:`open_checkout`."""

    tree: Path
    """The user's."""
    directory: Path
    repository: Git
    users: Git | None
    """The user's repository; None when the tree is in none."""

    @property
    def source(self) -> Path:
        """The checkout; what :meth:`show` put there."""
        return self.directory / "source"

    def commit_of(self, revision: str | None = None) -> str:
        """Return the commit that stands for a revision, or for the tree as it is now.

        What is not committed counts, new files as well, but for what git ignores.

        :raises ConfigError: there is no such revision, or a merge is under way.
        """
        if revision is not None:
            if self.users is None:
                raise ConfigError(
                    f"{self.tree} is no git repository, so it has no revision {revision!r}"
                )
            try:
                return self.users("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
            except BuildError as error:
                raise ConfigError(
                    f"{self.tree} has no revision {revision!r}", hint="see `git log` there"
                ) from error
        head = self._head()
        tree = self._tree_as_it_is()
        if head and self.repository("rev-parse", f"{head}^{{tree}}") == tree:
            return head
        parents = ("-p", head) if head else ()
        return self.repository("commit-tree", tree, *parents, "-m", "the work tree")

    def describe(self, revision: str | None = None) -> str:
        """Return what a reader calls a state of the tree: "v6.12-3-g0123456789ab, changed"."""
        if self.users is None:
            return makefile_version((self.tree / "Makefile").read_text(errors="replace"))
        name = self.users("describe", "--always", "--abbrev=12", revision or "HEAD")
        changed = revision is None and self.commit_of() != self._head()
        return f"{name}, changed" if changed else name

    def show(self, commit: str) -> None:
        """Put a commit into :attr:`source`; files that are the same stay untouched.

        :raises BuildError: it could not be written.
        """
        self.source.mkdir(exist_ok=True)
        # A killed run may have left it; the directory is ours alone.
        (self.directory / "source.index.lock").unlink(missing_ok=True)
        git = self._at(self.source, "source.index")
        git("read-tree", "--reset", "-u", commit, **_UNTOUCHED_BY_LINKS)

    def _head(self) -> str | None:
        return self.users("rev-parse", "--verify", "HEAD") if self.users else None

    def _tree_as_it_is(self) -> str:
        """Return the tree object of the user's work tree."""
        if self.users and (unmerged := self.users("ls-files", "--unmerged")):
            file = unmerged.splitlines()[0].split("\t")[-1]
            raise ConfigError(
                f"{self.tree}: a merge is under way, {file} has conflicts",
                hint="finish it or give it up (git merge --abort, git rebase --abort, ...)",
            )
        index = self.directory / "index"
        (self.directory / "index.lock").unlink(missing_ok=True)
        if self.users and not index.exists() and (theirs := self.users.path("index")).exists():
            # What git knows of the files' times spares it reading them all; with the index's own
            # time, by which it tells those that may have been edited since (git, racy-git.txt).
            shutil.copy2(theirs, index)
        git = self._at(self.tree, "index")
        # The packaged sources of a distribution have a .gitignore that leaves everything out.
        force, built = ((), ()) if self.users else (("--force",), _BUILT)
        git("add", "--all", *force, "--", ".", _BESIDE, *built)
        return git("write-tree")

    def _at(self, work_tree: Path, index: str) -> Git:
        environment = {
            "GIT_WORK_TREE": str(work_tree),
            "GIT_INDEX_FILE": str(self.directory / index),
        }
        return Git(self.repository.directory, environment, work_tree)


def open_checkout(tree: Path, directory: Path) -> Checkout:
    """Return our checkout of a tree; nothing is copied yet.

    :param directory: where it is kept; the caller holds its lock.
    :raises ConfigError: there is no kernel tree, or none for our guests.
    """
    check_tree(tree)
    users = users_git(tree)
    repository = Git(directory / "repository")
    if not (repository.directory / "HEAD").exists():
        shutil.rmtree(repository.directory, ignore_errors=True)
        directory.mkdir(parents=True, exist_ok=True)
        repository("init", "--quiet", "--bare", str(repository.directory))
        # Of a tree without git every file is stored: a third of the time, for some disk space.
        repository("config", "core.compression", "1")
    if users:
        objects = users.path("objects")
        alternates = repository.directory / "objects/info/alternates"
        alternates.write_text(f"{objects}\n")
        if (shallow := users.path("shallow")).exists():
            shutil.copyfile(shallow, repository.directory / "shallow")
    return Checkout(tree, directory, repository, users)


def check_tree(tree: Path) -> None:
    """Look whether a directory is a kernel tree for our guests.

    :raises ConfigError: it is none; says what is missing.
    """
    if not tree.is_dir():
        raise ConfigError(f"there is no directory {tree}", hint="name the top of a kernel tree")
    missing = [part for part in _PARTS if not (tree / part).exists()]
    if missing == ["arch/x86/Makefile"]:
        raise ConfigError(f"{tree} is a kernel tree without arch/x86: our guests are x86-64")
    if missing:
        raise ConfigError(
            f"{tree} is no Linux kernel tree: it has no {missing[0]}",
            hint="name the top of a kernel tree, the directory with MAINTAINERS in it",
        )


def makefile_version(makefile: str) -> str:
    """Return the version that a kernel's top Makefile states: "6.12.107", "6.13.0-rc2"."""
    pattern = r"(?m)^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *= *(\S*)$"
    found: dict[str, str] = dict(re.findall(pattern, makefile))
    numbers = (found.get(name) or "0" for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
    return ".".join(numbers) + found.get("EXTRAVERSION", "")
