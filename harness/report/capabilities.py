"""The capability table against the tests that proved its rows in the last run."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from harness.errors import Verdict
from harness.report.outcome import Outcome


class Status(enum.StrEnum):
    """Where a row stands."""

    PROVED = "proved"
    """At least one test of the row passed, and none failed."""
    FAILING = "failing"
    """A test of the row did not pass."""
    UNTESTED = "untested"
    """No test of the row ran."""


@dataclass(frozen=True, slots=True)
class Capability:
    """One row with its evidence: names of its tests, and of the kernels on which they passed."""

    id: str
    title: str
    status: Status
    tests: tuple[str, ...]
    kernels: tuple[str, ...]


@cache
def capability_titles() -> dict[str, str]:
    """Return row id to title, in the table's order."""
    text = resources.files("harness.report").joinpath("capabilities.yaml").read_text()
    titles: dict[str, str] = yaml.safe_load(text)
    return titles


def judge_capabilities(outcomes: Iterable[Outcome]) -> list[Capability]:
    """Return every row of the table with what the outcomes say about it."""
    by_row: dict[str, list[Outcome]] = {row: [] for row in capability_titles()}
    for outcome in outcomes:
        for row in outcome.rows:
            by_row[row].append(outcome)
    return [_judge(row, found) for row, found in by_row.items()]


def _judge(row: str, outcomes: list[Outcome]) -> Capability:
    # A test that could not run for want of a requirement says nothing about the row.
    ran = [item for item in outcomes if item.verdict is not Verdict.MISSING_REQUIREMENT]
    if not ran:
        status = Status.UNTESTED
    elif all(item.verdict is Verdict.PASS for item in ran):
        status = Status.PROVED
    else:
        status = Status.FAILING
    passed = [item for item in ran if item.verdict is Verdict.PASS]
    return Capability(
        id=row,
        title=capability_titles()[row],
        status=status,
        tests=tuple(sorted({item.test.partition("[")[0] for item in ran})),
        kernels=tuple(sorted({item.kernel for item in passed if item.kernel})),
    )
