"""What one test said: a line of a run's results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from harness.errors import Verdict
from harness.schema.convert import from_json, to_json


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict of one test on one kernel and machine (both "" where no guest was involved)."""

    test: str
    """Its name as pytest takes it, with the kernel and the machine in brackets."""
    verdict: Verdict
    rows: tuple[str, ...] = ()
    """Rows of the capability table that it claims."""
    kernel: str = ""
    machine: str = ""
    cells: tuple[str, ...] = ()
    """Every kernel and machine that the matrix has for it, whatever the run was narrowed to."""
    seconds: float = 0.0
    message: str = ""
    error: str = ""
    """What was raised, as it says itself: its evidence is in it. "" of a test that passed."""
    provenance: dict[str, str] = field(default_factory=dict)
    """What it ran on, and what it recorded of itself (``record_property``), a seed above all."""

    @property
    def function(self) -> str:
        """The test without its parameters."""
        return self.test.partition("[")[0]

    @property
    def cell(self) -> str:
        """The kernel and the machine, as in ``cells``; "" without a guest."""
        return f"{self.kernel}-{self.machine}" if self.kernel else ""

    def to_json(self) -> str:
        """Return the outcome as one line of JSON."""
        return to_json(self)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Return the outcome of a line that :meth:`to_json` wrote.

        :raises ValueError: the line is not one.
        """
        # A member that we do not know is of another version of ours.
        return from_json(cls, line)
