"""Git, as the harness uses it: in repositories of its own, deaf to the user's configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from harness.errors import BuildError, LaunchError
from harness.host.deadline import Deadline
from harness.host.process import find_tool, run

_SECONDS: Final = 1200.0

_NOBODY: Final = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "imsh"), ("EMAIL", "imsh@localhost"), ("DATE", "@0 +0000"))
}
"""Who commits, and when: the same content is the same commit, on every machine."""

_ALONE: Final = ("env", *(f"--unset=GIT_{name}" for name in (
    "DIR", "WORK_TREE", "INDEX_FILE", "OBJECT_DIRECTORY", "COMMON_DIR", "PREFIX", "NAMESPACE",
)))  # fmt: skip
"""A hook or `git bisect run` that starts us has set these for its own repository."""

_DEAF: Final = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}


@dataclass(frozen=True, slots=True)
class Git:
    """A repository, and the work tree and the index that commands of it use."""

    directory: Path
    """The repository, ``.git`` or bare."""
    environment: Mapping[str, str] = field(default_factory=dict)
    start: Path | None = None
    """Where commands start: paths that they are given are relative to it."""

    def path(self, name: str) -> Path:
        """Return where the repository keeps something: a work tree's may be elsewhere."""
        return Path(self("rev-parse", "--path-format=absolute", "--git-path", name))

    def __call__(self, *words: str, **environment: str) -> str:
        """Run a command of git and return what it printed, without the last line's end.

        :raises BuildError: it failed; the evidence is what it said.
        """
        settings = {**_DEAF, **_NOBODY, **self.environment, **environment}
        argv = [*_ALONE, *(f"{name}={value}" for name, value in settings.items())]
        argv += [str(find_tool("git")), "--no-optional-locks", "--git-dir", str(self.directory)]
        try:
            return run(
                [*argv, *words], deadline=Deadline(_SECONDS, f"git {words[0]}"), cwd=self.start
            ).stdout.rstrip("\n")
        except LaunchError as error:
            raise BuildError(f"git {words[0]} failed", evidence=error.evidence) from error


def users_git(tree: Path) -> Git | None:
    """Return the repository that a directory is the work tree of, None when it is in none.

    :raises BuildError: git does not take it: somebody else's, or damaged.
    """
    argv = [*_ALONE, str(find_tool("git")), "-C", str(tree), "rev-parse"]
    # Git says of a repository of somebody else's that it is one; of a damaged one it does not.
    said = run(
        [*argv, "--absolute-git-dir", "--show-prefix"],
        deadline=Deadline(60, "git rev-parse"),
        env={"LC_ALL": "C"},
        check=False,
    )
    if said.returncode == 0:
        directory, prefix = [*said.stdout.splitlines(), ""][:2]
        # A tree that lies unpacked somewhere in another repository is not that repository's.
        return None if prefix else Git(Path(directory))
    if (tree / ".git").exists():
        raise BuildError(
            f"{tree}: git does not take this repository",
            hint=f"see `git -C {tree} status`",
        )
    return None
