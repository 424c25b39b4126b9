"""What was tried of each kernel of a bisection, kept so that an interrupted one goes on from there.

A kernel is its image, bit for bit: builds are reproducible here, so commits whose kernels are equal
have one record. A failure between two of them cannot be a commit's doing.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError, Verdict
from harness.report.outcome import Outcome
from harness.schema.convert import from_json, to_json

_FAILURES = (Verdict.KERNEL_FAILURE, Verdict.TIME_OUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One run of the tests on the kernel of a commit, or why there is none."""

    commit: str
    image: str = ""
    """Stands for the kernel's content, and for that of the module built for it; "" for none."""
    unbuilt: str = ""
    """What the compiler said, when it does not build."""
    outcomes: tuple[Outcome, ...] = ()
    directory: str = ""
    """Where the run left its evidence."""

    @property
    def failing(self) -> frozenset[str]:
        """The tests that failed, and the kernel is to blame."""
        return frozenset(item.test for item in self.outcomes if item.verdict in _FAILURES)

    @property
    def unbooted(self) -> frozenset[str]:
        """The tests whose guest did not come up."""
        return frozenset(item.test for item in self.outcomes if not _came_up(item)) & self.failing

    def shows(self, tests: Collection[str], *, boots: bool) -> bool | None:
        """Return whether one of these tests fails; None when that cannot be told.

        :param boots: whether a guest that does not come up tells nothing; else it is the failure.
        """
        if (self.failing - self.unbooted if boots else self.failing) & set(tests):
            return True
        passed = {item.test for item in self.outcomes if item.verdict is Verdict.PASS}
        return False if passed >= set(tests) else None


class Journal:
    """The tries of a bisection, in the order they were made; each is kept as soon as it is there.

    :raises ConfigError: the file is damaged.
    """

    def __init__(self, file: Path):
        self._file = file
        *lines, _torn = file.read_text().split("\n") if file.exists() else [""]
        try:
            self.tries = [from_json(Tried, line) for line in lines]
        except ValueError as error:
            raise ConfigError(f"{file}: {error}", hint="remove it: it was damaged") from error
        with file.open("w") as whole:  # a line that a killed run was writing goes
            whole.writelines(f"{line}\n" for line in lines)

    def add(self, tried: Tried) -> None:
        """Keep a try. It outlives this process from here on."""
        self.tries.append(tried)
        with self._file.open("a") as file:
            file.write(f"{to_json(tried)}\n")
            file.flush()
            os.fsync(file.fileno())

    def image_of(self, commit: str) -> str:
        """Return the image of a commit, "" while it was not built."""
        return next((item.image for item in self.tries if item.commit == commit), "")

    def of(self, commit: str, image: str = "") -> list[Tried]:
        """Return the tries of a commit, and of every other one with the same kernel."""
        image = image or self.image_of(commit)
        return [
            item for item in self.tries if item.commit == commit or (image and item.image == image)
        ]


def _came_up(outcome: Outcome) -> bool:
    # What a machine is made of is known once it answers.
    return "kernel release" in outcome.provenance
