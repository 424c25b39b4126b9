"""The capability table against what the kept runs proved.

A row is proved by what ran in a guest, and by nothing else; tests without a guest are listed as its
support. For each test on each kernel and machine the newest run counts in which it ran: a run of
one test replaces that test's result, and a run without guests replaces nothing. Behind the newest
run of the whole suite nothing is looked for, so that a test that is gone proves nothing either.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import yaml

from harness.errors import Verdict
from harness.report.outcome import Outcome
from harness.report.run_store import Run
from harness.report.verdict import graver


class Standing(enum.StrEnum):
    """Where a row stands."""

    PROVED = "proved"
    """Its tests passed in a guest, on every kernel and machine of the matrix; skips aside."""
    PARTLY = "partly"
    """None failed, but a part of the row has no test, or a kernel or machine has not been run."""
    FAILING = "failing"
    """A test of the row did not pass in a guest."""
    UNTESTED = "untested"
    """No test of the row ran in a guest."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: a whole sentence of what this project is for."""

    title: str
    partly: str = ""
    """The part that no test of the row shows yet; "": they show all of it."""
    guestless: bool = False
    """The row itself says that there is no guest: tests without one prove it."""


@dataclass(frozen=True, slots=True)
class Capability:
    """One row with its evidence."""

    id: str
    title: str
    status: Standing
    missing: tuple[str, ...]
    """What keeps it from being proved: the part without a test, and what did not run."""
    tests: tuple[str, ...]
    """Tests that the row is judged by: those that ran in a guest."""
    cells: tuple[str, ...]
    """Kernels and machines on which they passed."""
    skipped: Mapping[str, tuple[str, ...]]
    """Reason to the kernels and machines on which a test was skipped for it."""
    support: tuple[str, ...]
    """Tests of the row that need no guest."""
    runs: tuple[str, ...]
    """The runs that this is from, the newest first."""


@cache
def capability_rows() -> dict[str, Row]:
    """Return the rows of the table by id, in its order."""
    text = resources.files("harness.report").joinpath("capabilities.yaml").read_text()
    return {row: Row(**fields) for row, fields in yaml.safe_load(text).items()}


@dataclass(slots=True)
class _Evidence:
    """What was found for a row: by test, the outcome that counts and the run that it is from."""

    in_guest: dict[str, tuple[Outcome, str]] = field(default_factory=dict)
    skipped: dict[str, tuple[Outcome, str]] = field(default_factory=dict)
    support: dict[str, tuple[Outcome, str]] = field(default_factory=dict)

    def add(self, outcome: Outcome, run: str) -> None:
        if not outcome.kernel:
            self.support.setdefault(outcome.test, (outcome, run))
        elif outcome.verdict is Verdict.MISSING_REQUIREMENT:
            # It says nothing about the row: what an older run found out stands.
            self.skipped.setdefault(outcome.test, (outcome, run))
        else:
            self.in_guest.setdefault(outcome.test, (outcome, run))


def judge_capabilities(runs: Iterable[Run]) -> list[Capability]:
    """Return every row of the table with what the runs say about it.

    :param runs: the newest first.
    """
    rows = {row: _Evidence() for row in capability_rows()}
    for run in runs:
        # The same test twice in one run: the graver counts.
        once: dict[str, Outcome] = {}
        for outcome in run.outcomes:
            known = once.get(outcome.test)
            if known is None or graver(outcome.verdict, known.verdict) != known.verdict:
                once[outcome.test] = outcome
        for outcome in once.values():
            for row in outcome.rows:
                if row in rows:
                    rows[row].add(outcome, run.head.run)
        if run.head.whole and run.head.ended and run.has_guest:
            break
    return [_judge(row, evidence) for row, evidence in rows.items()]


def _judge(row: str, evidence: _Evidence) -> Capability:
    proof = evidence.support if capability_rows()[row].guestless else evidence.in_guest
    ran = [outcome for outcome, _ in proof.values()]
    skipped = [
        outcome for test, (outcome, _) in evidence.skipped.items() if test not in evidence.in_guest
    ]
    missing = [part] if (part := capability_rows()[row].partly) else []
    if not_run := _not_run(ran, skipped):
        missing.append(f"not run on {', '.join(not_run)}")
    if not ran:
        status = Standing.UNTESTED
    elif any(outcome.verdict is not Verdict.PASS for outcome in ran):
        status = Standing.FAILING
    else:
        status = Standing.PARTLY if missing else Standing.PROVED
    found = [*evidence.in_guest.values(), *evidence.support.values()]
    return Capability(
        id=row,
        title=capability_rows()[row].title,
        status=status,
        missing=tuple(missing),
        tests=tuple(sorted({outcome.function for outcome in ran})),
        cells=tuple(
            sorted({item.cell for item in ran if item.cell and item.verdict is Verdict.PASS})
        ),
        skipped={
            reason: tuple(sorted({item.cell for item in skipped if item.message == reason}))
            for reason in sorted({item.message for item in skipped})
        },
        support=tuple(
            sorted({outcome.function for outcome, _ in evidence.support.values()})
            if proof is evidence.in_guest
            else ()
        ),
        runs=tuple(sorted({run for _, run in found}, reverse=True)),
    )


def _not_run(ran: Iterable[Outcome], skipped: Iterable[Outcome]) -> list[str]:
    """Return the kernels and machines that a test is for and that no run has shown it on."""
    wanted: set[tuple[str, str]] = set()
    seen: set[tuple[str, str]] = set()
    for outcome in [*ran, *skipped]:
        wanted |= {(outcome.function, cell) for cell in outcome.cells}
        seen.add((outcome.function, outcome.cell))
    return sorted({cell for _, cell in wanted - seen})
