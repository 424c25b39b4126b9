"""The kernels of a tree's commits, built as any tree's, and tests run on them in real guests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from harness.bisect.tries import Tried
from harness.build.kbuild import CompileError
from harness.build.kernel import KernelRecipe, TreeSource
from harness.build.provision import Provisioner
from harness.errors import ConfigError, HarnessError, Verdict
from harness.host.cache import digest_of_files
from harness.host.deadline import Deadline
from harness.host.workspace import make_workspace
from harness.validate.trial import Subject, run_tests

RUN_SECONDS: Final = 3600.0
"""Bound of one run of the tests."""

_OURS: Final = (Verdict.HARNESS_FAILURE, Verdict.USAGE_ERROR)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeLaboratory:
    """A :class:`~harness.bisect.search.Laboratory` for one tree."""

    provisioner: Provisioner
    recipe: KernelRecipe
    options: tuple[str, ...]
    """Of pytest: the matrix and the machines."""
    tests: tuple[str, ...]
    """As the user named them: files, directories, tests."""
    directory: Path
    """Where each run of the tests leaves its files."""

    def build(self, commit: str) -> Tried:
        """Build a commit; return its image, or why it does not build, and no outcome."""
        try:
            guest = self._subject(commit).provide(self.provisioner)
        except CompileError as error:
            return Tried(commit=commit, unbuilt=error.evidence or error.message)
        modules = guest.kernel.modules.rglob("*.ko")
        image = digest_of_files([guest.kernel.vmlinuz, *modules, guest.module.module])
        return Tried(commit=commit, image=image)

    def run(self, commit: str, tests: Sequence[str]) -> Tried:
        """Run tests on the kernel of a commit: those named, or else the user's.

        :raises ConfigError: there are no such tests.
        :raises HarnessError: the harness or the host failed.
        """
        place = make_workspace(self.directory, commit[:12]).directory
        words = [*self.options, *(tests or self.tests)]
        deadline = Deadline(RUN_SECONDS, "the tests")
        outcomes = run_tests(self._subject(commit), words, place, deadline)
        if not outcomes:
            raise ConfigError("there is no such test", evidence=" ".join(words))
        for outcome in outcomes:
            if outcome.verdict in _OURS:
                raise HarnessError(
                    f"the harness or the host failed, and nothing is known about {commit[:12]}",
                    evidence=f"{outcome.test}: {outcome.message}",
                    hint=f"see {place}; the same command goes on from here",
                )
        return replace(self.build(commit), outcomes=outcomes, directory=str(place))

    def _subject(self, commit: str) -> Subject:
        source = self.recipe.tree
        assert source is not None
        state = self.provisioner.trees.state_of(source, commit)
        return Subject(recipe=replace(self.recipe, tree=_at(source, commit)), state=state)


def _at(source: TreeSource, commit: str) -> TreeSource:
    """Return what names a commit again; of a series on top, it is the whole series."""
    return source if source.series else replace(source, revision=commit)
