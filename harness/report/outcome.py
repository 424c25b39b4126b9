"""What one test said, kept as one JSON line a test: the record of the last run."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from harness.errors import ConfigError, Verdict

RESULTS_DIRECTORY: Final = Path("build/results")
"""Where a run keeps its record and artifacts unless told otherwise, below the current directory."""

LAST_RUN: Final = "last-run.jsonl"
"""Name of the record in the results directory."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict of one test on one kernel and machine (both "" where no guest was involved)."""

    test: str
    verdict: Verdict
    rows: tuple[str, ...] = ()
    kernel: str = ""
    machine: str = ""
    seconds: float = 0.0
    message: str = ""
    provenance: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the outcome as one line of JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Return the outcome of a line that :meth:`to_json` wrote.

        :raises ValueError: the line is not one.
        """
        try:
            fields: dict[str, Any] = json.loads(line)
            fields["verdict"] = Verdict(fields["verdict"])
            fields["rows"] = tuple(fields["rows"])
            return cls(**fields)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not an outcome: {error}") from error


def write_outcomes(directory: Path, outcomes: Iterable[Outcome]) -> Path:
    """Write the record of a run in one step, so that a killed run leaves the previous one whole."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / LAST_RUN
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text("".join(outcome.to_json() + "\n" for outcome in outcomes))
    partial.replace(path)
    return path


def read_outcomes(directory: Path) -> Iterator[Outcome]:
    """Yield the outcomes of the last run; none when nothing ran yet.

    :raises ConfigError: the record is damaged; the message names file and line.
    """
    path = directory / LAST_RUN
    if not path.exists():
        return
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            yield Outcome.from_json(line)
        except ValueError as error:
            raise ConfigError(
                f"{path}:{number}: {error}", hint="run the tests again to write a new record"
            ) from error
