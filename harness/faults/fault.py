"""One fault: what it imitates, where it is put, and who should notice."""

from __future__ import annotations

from dataclasses import dataclass

from harness.faults.seed import Seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A row of the table."""

    name: str
    imitates: str
    """What went wrong in a kernel or a hypervisor; with the commit of the fix, if there is one."""
    seed: Seed
    rows: tuple[str, ...]
    """Rows of the capability table: a test of one should go red. Those of the first run first."""
    tests: tuple[str, ...]
    """Tests that should see it, the quickest first: files in tests/guest, or tests in them."""
    machine: str = "caching"
