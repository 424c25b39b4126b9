"""Evidence is kept whatever a guest leaves behind, and that of one test is not another's."""

from __future__ import annotations

import errno
from pathlib import Path

from harness.host.workspace import Workspace
from harness.remapping.unit import RemappingTable
from harness.testbed.evidence import keep, own_directory


class NoMemory:
    """Guest memory where a wild table address leads."""

    def read(self, address: int, count: int) -> bytes:
        raise OSError(errno.EFAULT, f"no guest memory at {address:#x}")


def test_a_table_outside_ram_leaves_the_reason_in_the_evidence(tmp_path: Path) -> None:
    table = RemappingTable(NoMemory(), 0xFFFF_F000, 1 << 16)
    assert not keep(Workspace(tmp_path), "irtes.txt", lambda: str(table.present_entries()))
    assert "no guest memory at 0xfffff000" in (tmp_path / "irtes.txt").read_text()


def test_what_can_be_had_is_kept(tmp_path: Path) -> None:
    assert keep(Workspace(tmp_path), "log.txt", lambda: "all of it")
    assert (tmp_path / "log.txt").read_text() == "all of it"


def test_tests_whose_names_become_equal_have_directories_of_their_own(tmp_path: Path) -> None:
    names = [
        "test_x.py::test_y[a b]",
        "test_x.py::test_y[a_b]",
        "test_x.py::test_y[a b]",
        "x" * 999,
    ]
    made = [own_directory(tmp_path / "failed", name) for name in names]
    assert len(set(made)) == len(names)
    assert all(directory.is_dir() for directory in made)
