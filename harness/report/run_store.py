"""Runs, kept: a directory each, with what the run is and one line a result as it comes.

    RESULTS/runs/20261121T141500Z-3f2a/
        run.json        what was run, where and by what; written at the start and again at the end
        results.jsonl   an outcome a line, each there as soon as its test is done
        failed/         the evidence of each failed test
        machines/       what each machine leaves while it runs

A run that is killed leaves every result that it had; a line that it was writing is left out, and
said so. Each run holds its own directory, so any number of them go on side by side.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import os
import platform
import secrets
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import ConfigError, HarnessError, Verdict
from harness.host.resources import harness_version
from harness.host.workspace import directory_lock
from harness.report.outcome import Outcome
from harness.schema.convert import from_json, to_json

RESULTS_DIRECTORY: Final = Path("build/results")
"""Where runs are kept unless told otherwise, below the current directory."""
RUNS: Final = "runs"
FAILED: Final = "failed"
"""Below a run: the evidence of each failed test."""
MACHINES: Final = "machines"
"""Below a run: what each machine leaves while it runs."""

_HEAD: Final = "run.json"
_RESULTS: Final = "results.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a run is."""

    run: str
    """Its name, which begins with the time: the order of names is the order of runs."""
    started: str
    """UTC, ISO 8601; ``ended`` likewise."""
    argv: tuple[str, ...]
    """What was asked for, as it can be asked for again in ``directory``."""
    directory: str
    matrix: str
    workers: int
    imsh: str
    """Version of the harness, with its commit."""
    host: str
    """Node, kernel and processor of this machine."""
    python: str
    whole: bool
    """Whether nothing narrowed it: every test on every kernel and machine of the default matrix."""
    ended: str = ""
    """"" while it goes on, and for good when it was cut short."""


def describe_run(
    argv: Sequence[str], directory: Path, *, matrix: str, workers: int, whole: bool
) -> Head:
    """Return the head of a run that starts now, under a name of its own."""
    now = datetime.datetime.now(datetime.UTC)
    host = platform.uname()
    return Head(
        run=f"{now:%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(2)}",  # in the order of time
        started=now.isoformat(timespec="seconds"),
        argv=tuple(argv),
        directory=str(directory),
        matrix=matrix,
        workers=workers,
        imsh=harness_version(),
        host=f"{host.node}, {host.system} {host.release} {host.machine}",
        python=platform.python_version(),
        whole=whole,
    )


class RunWriter:
    """A run that goes on. Made by :func:`new_run`."""

    def __init__(self, directory: Path, head: Head, results: int):
        self.directory = directory
        self.head = head
        self._results = results
        self.verdicts: Counter[str] = Counter()
        """How many tests came to each verdict so far."""

    def add(self, outcome: Outcome) -> None:
        """Keep a result. It outlives this process from here on."""
        self.verdicts[outcome.verdict.value] += 1
        line = f"{outcome.to_json()}\n".encode()
        while line:
            line = line[os.write(self._results, line) :]

    def end(self, *, whole: bool) -> None:
        """Say that the run came to its end.

        :param whole: whether it ran everything that it had set out to.
        """
        now = datetime.datetime.now(datetime.UTC)
        self.head = dataclasses.replace(
            self.head,
            ended=now.isoformat(timespec="seconds"),
            whole=self.head.whole and whole,
        )
        _write_head(self.directory, self.head)


@contextlib.contextmanager
def new_run(results: Path, head: Head) -> Iterator[RunWriter]:
    """Hold the directory of a new run. One without a result is not kept.

    :raises ConfigError: it cannot be made.
    """
    directory = (results / RUNS / head.run).absolute()
    with contextlib.ExitStack() as stack:
        stack.enter_context(directory_lock(directory))
        _write_head(directory, head)
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(directory / _RESULTS, flags, 0o666)
        stack.callback(os.close, fd)
        writer = RunWriter(directory, head, fd)
        try:
            yield writer
        finally:
            with contextlib.suppress(OSError):
                (directory / MACHINES).rmdir()  # stays when something was left in it
            if not writer.verdicts:
                shutil.rmtree(directory, ignore_errors=True)


def _write_head(directory: Path, head: Head) -> None:
    """Write in one step: whoever reads sees a whole one."""
    partial = directory / f".{_HEAD}"
    partial.write_text(to_json(head, indent=2) + "\n", encoding="utf-8")
    partial.replace(directory / _HEAD)


@dataclass(frozen=True)
class Run:
    """A kept run, of another process or of an earlier one."""

    directory: Path
    head: Head

    @property
    def going_on(self) -> bool:
        """Whether the process that writes it lives."""
        try:
            with directory_lock(self.directory):
                return False
        except ConfigError:
            return True

    @property
    def state(self) -> str:
        """``ended``, ``going on`` or ``cut short``."""
        if self.head.ended:
            return "ended"
        return "going on" if self.going_on else "cut short"

    @functools.cached_property
    def results(self) -> tuple[tuple[Outcome, ...], str]:
        """The outcomes in the order they came, and what is wrong with the last line ("": nothing).

        :raises ConfigError: a line in the middle is damaged; names file and line.
        """
        path = self.directory / _RESULTS
        *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
        found = []
        for number, line in enumerate(lines, start=1):
            try:
                found.append(Outcome.from_json(line))
            except ValueError as error:
                raise ConfigError(
                    f"{path}:{number}: {error}", hint=f"remove {self.directory}: it was damaged"
                ) from error
        torn = f"{path}:{len(lines) + 1}: half a line, left out" if rest else ""
        return tuple(found), torn

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The outcomes in the order they came."""
        return self.results[0]

    @property
    def verdicts(self) -> dict[str, int]:
        """How many tests came to each verdict; no zeros."""
        return dict(Counter(outcome.verdict.value for outcome in self.outcomes))

    @property
    def has_guest(self) -> bool:
        """Whether a test ran in a guest."""
        return any(
            item.kernel and item.verdict is not Verdict.MISSING_REQUIREMENT
            for item in self.outcomes
        )

    def size(self) -> int:
        """Return the bytes that it takes on disk."""
        return sum(
            path.lstat().st_blocks * 512 for path in self.directory.rglob("*") if path.exists()
        )


def kept_runs(results: Path) -> list[Run]:
    """Return the runs that are kept, the newest first.

    What is no run, or is being removed, is left out.
    """
    runs = []
    for directory in sorted((results / RUNS).glob("*/"), reverse=True):
        with contextlib.suppress(OSError, ValueError):
            head = (directory / _HEAD).read_text(encoding="utf-8")
            runs.append(Run(directory, from_json(Head, head)))
    return runs


def remove_old(
    runs: Sequence[Run], *, keep: int, keep_bytes: int, held: Collection[str]
) -> list[Run]:
    """Remove runs, the oldest first, until few and small enough are left; return the removed.

    Never removed: one that goes on, the newest with a guest, and those in ``held``.

    :param runs: all of them, the newest first.
    :param held: names of runs that something stands on.
    """
    newest = next((run for run in runs if run.has_guest), None)
    sizes = {run.head.run: run.size() for run in runs}
    removed: list[Run] = []
    for run in reversed(runs):
        if len(sizes) <= keep and sum(sizes.values()) <= keep_bytes:
            break
        if run is newest or run.head.run in held:
            continue
        with contextlib.suppress(HarnessError), directory_lock(run.directory):
            # Without its head it is no run for anybody any more.
            (run.directory / _HEAD).unlink(missing_ok=True)
            shutil.rmtree(run.directory, ignore_errors=True)
            removed.append(run)
            del sizes[run.head.run]
    return removed
