"""Kill a run of a guest test at random moments, and look for what it leaves.

    python -m tests.soak.kills --count 500

A run is this pytest on one guest test, whose guest continues from a snapshot and has a device
plugged. Each is killed by SIGKILL at a moment drawn evenly from an undisturbed run's length. It may
leave no process, no lock that is held, no half-made entry of the cache and nothing in TMPDIR; and
afterwards a run has to pass. The exit status is 0 when all of that holds.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from harness.host.cache import cache_directory
from harness.testbed.supplies import DEFAULT_KERNEL, DEFAULT_MACHINE

TEST: Final = (
    "tests/guest/test_ims.py::test_a_work_descriptor_raises_the_interrupt_it_names",
    *("--kernel", DEFAULT_KERNEL, "--machine", DEFAULT_MACHINE),
)
MARK: Final = "IMSH_SOAK"
"""Environment variable whose value tells the processes of one run from all others."""
END_SECONDS: Final = 3.0
"""How long the kernel may take to end what the run has started."""


@dataclass(frozen=True, slots=True)
class Left:
    """What a killed run left behind, each as a line for a human."""

    processes: tuple[str, ...]
    temporary: tuple[str, ...]
    """Names in TMPDIR: directories of sockets, mostly."""
    locks: tuple[str, ...]
    """Of the cache, and still held."""
    half_made: tuple[str, ...]
    """Entries of the cache that nobody is making."""

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return "; ".join(f"{name}: {', '.join(found)}" for name, found in said.items() if found)


class Runs:
    """Runs of the test, one after the other, in a directory of their own."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._temporary = directory / "temporary"
        self._temporary.mkdir()
        self._mark = secrets.token_hex(8)

    def undisturbed(self) -> float:
        """Return the seconds that a run takes.

        :raises RuntimeError: it does not pass.
        """
        began = time.monotonic()
        with self._run() as run:
            status = run.wait()
        if status:
            raise RuntimeError(f"the run ended with {status}: see {self._log}")
        return time.monotonic() - began

    def killed(self, seconds: float) -> Left:
        """Kill a run after so long, and return what it left."""
        with self._run() as run:
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(seconds)
            run.kill()
        end = time.monotonic() + END_SECONDS
        while (processes := marked(self._mark)) and time.monotonic() < end:
            time.sleep(0.01)
        temporary = tuple(path.name for path in self._temporary.iterdir())
        for path in self._temporary.iterdir():
            subprocess.run(["rm", "-r", path], check=True)
        for line in processes:  # of this run, and of no other: they carry its mark
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.split()[0]), 9)
        return Left(processes, temporary, *_cache())

    @property
    def _log(self) -> Path:
        return self._directory / "log"

    def _run(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "pytest", *TEST, "-n", "0", "-p", "no:cacheprovider"]
        argv += ["--results", str(self._directory / "results")]
        environment = {MARK: self._mark, "TMPDIR": str(self._temporary)}
        with self._log.open("wb") as log:
            return subprocess.Popen(
                argv, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}
            )


def marked(mark: str) -> tuple[str, ...]:
    """Return the processes that descend from a run, each as "pid command"."""
    return tuple(_commands(f"{MARK}={mark}".encode()))


def _commands(setting: bytes) -> Iterator[str]:
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            if setting in (place / "environ").read_bytes().split(b"\0"):
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                yield f"{place.name} {command[:100]}"


def _cache() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the locks of the cache that are held, and the half-made entries without such."""
    directory = cache_directory()
    held = set()
    for path in (directory / "locks").iterdir():
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                held.add(path.name)
    half_made = (
        f"{path.parent.name}-{path.name.partition('.partial')[0]}"
        for path in directory.glob("*/*.partial")
    )
    return tuple(sorted(held)), tuple(sorted(set(half_made) - held))


def main() -> int:
    """Kill runs, tell of each that leaves something, and sum up."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=500, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="draw the moments of an earlier run again")
    args = parser.parse_args()
    seed = secrets.randbits(32) if args.seed is None else args.seed
    moments = random.Random(seed)
    bad = 0
    with tempfile.TemporaryDirectory(prefix="imsh-soak-") as directory:
        runs = Runs(Path(directory))
        runs.undisturbed()  # makes what is to be made
        length = runs.undisturbed()
        _tell(f"seed {seed}; an undisturbed run takes {length:.1f} s")
        began = time.monotonic()
        for number in range(1, args.count + 1):
            moment = moments.uniform(0, length)
            if left := runs.killed(moment):
                bad += 1
                _tell(f"kill {number} after {moment:.3f} s left {left}")
            if number % 50 == 0:
                _tell(f"{number} kills, {bad} left something, {time.monotonic() - began:.0f} s")
        _tell(f"a run after {args.count} kills: passed in {runs.undisturbed():.1f} s")
    _tell(f"{args.count} runs killed, {bad} left something")
    return bad > 0


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
