"""What one test said: a line of a run's results."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Self

from harness.errors import Verdict


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
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Return the outcome of a line that :meth:`to_json` wrote.

        :raises ValueError: the line is not one.
        """
        try:
            said: dict[str, Any] = json.loads(line)
            # Another version of ours may have written it.
            fields = {key: said[key] for key in cls.__dataclass_fields__ if key in said}
            fields["verdict"] = Verdict(fields["verdict"])
            for name in ("rows", "cells"):
                fields[name] = tuple(fields.get(name, ()))
            return cls(**fields)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not an outcome: {error}") from error
