# Ref: git-bisect(1)
"""A range of commits, halved by git bisect in a bare repository of our own.

The commits' objects are read where they are; nothing but git's own notes of the bisection is kept
here, and nothing in the repository that the commits are from.
"""

from __future__ import annotations

import enum
import re
import shutil
from pathlib import Path
from typing import Final

from harness.build.git import Git
from harness.errors import BuildError, ConfigError

_BAD: Final = "refs/bisect/bad"
_GOOD: Final = "--glob=refs/bisect/good-*"


class Mark(enum.StrEnum):
    """What git bisect is told of a commit."""

    GOOD = "good"
    BAD = "bad"
    SKIP = "skip"
    """It cannot be tested."""


class History:
    """One bisection.

    :param directory: the repository; what is there is thrown away.
    :param objects: the objects directory that has the commits.
    :raises ConfigError: there is nothing to bisect between the two ends.
    """

    def __init__(self, directory: Path, objects: Path, good: str, bad: str):
        self._good, self._bad = good, bad
        self._objects = objects
        self._git = Git(directory)
        self._skipped: set[str] = set()
        self._said = ""
        self.start()

    def start(self) -> None:
        """Begin anew, knowing the two ends only."""
        directory = self._git.directory
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        self._git("init", "--quiet", "--bare", str(directory))
        (directory / "objects/info/alternates").write_text(f"{self._objects}\n")
        if not self.length:
            raise ConfigError(
                f"there is no commit between the good {self._good[:12]} and the bad "
                f"{self._bad[:12]}",
                hint="the bad end comes after the good one: are they the wrong way round?",
            )
        self._skipped.clear()
        self._git("update-ref", "--no-deref", "HEAD", self._bad)  # a new one's names no commit
        self._said = self._git("bisect", "start", "--no-checkout", self._bad, self._good)

    @property
    def next(self) -> str | None:
        """The commit to look at next; None when there is none."""
        if set(self.candidates) - {self._git("rev-parse", _BAD)} <= self._skipped:
            return None
        return self._git("rev-parse", "BISECT_HEAD")

    @property
    def steps_left(self) -> int:
        """About how many commits there are still to look at, the next among them."""
        found = re.search(r"roughly (\d+) step", self._said)
        return int(found[1]) + 1 if found else 0

    def mark(self, commit: str, mark: Mark) -> None:
        """Say what a commit is.

        :raises ConfigError: git cannot go on: the good end is on a branch that forked off before
            the failure came in.
        """
        if mark is Mark.SKIP:
            self._skipped.add(commit)
        try:
            self._said = self._git("bisect", mark, commit)
        except BuildError as error:
            if self.next is not None:  # of nothing but skipped commits it says so by its status
                raise ConfigError("git cannot go on", evidence=error.evidence) from error

    @property
    def candidates(self) -> list[str]:
        """The commits of which one is the first bad one, the newest first."""
        return self._git("rev-list", _BAD, "--not", _GOOD).split()

    @property
    def length(self) -> int:
        """How many commits there are between the ends, the bad one among them."""
        return int(self._git("rev-list", "--count", self._bad, f"^{self._good}"))

    @property
    def log(self) -> str:
        """Git's own notes: what `git bisect replay` takes."""
        return self._git("bisect", "log")

    def parents(self, commit: str) -> list[str]:
        """Return a commit's parents."""
        return self._git("rev-parse", f"{commit}^@").split()

    def subject(self, commit: str) -> str:
        """Return the first line of a commit's message."""
        return self._git("log", "-1", "--format=%s", commit)

    def describe(self, commit: str) -> str:
        """Return who made a commit, its message, and the files that it changes."""
        form = "--format=%h %s%n%nAuthor: %an <%ae>%nDate:   %ad%n%n%b"
        return self._git("log", "-1", form, "--abbrev=12", "--stat=70", commit)
