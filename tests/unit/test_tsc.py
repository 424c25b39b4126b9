"""The rate of the host's time stamp counter."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from harness.host.tsc import tsc_khz

CONSTANT = "processor\t: 0\nflags\t\t: fpu tsc constant_tsc nonstop_tsc\n"


def measured(directory: Path, listing: str) -> int | None:
    file = directory / "cpuinfo"
    file.write_text(listing)
    tsc_khz.cache_clear()
    return tsc_khz(file)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="an instruction of x86-64")
def test_it_is_measured_alike_however_often(tmp_path: Path) -> None:
    rates = [measured(tmp_path, CONSTANT) or 0 for _ in range(5)]
    assert min(rates) > 100_000
    assert max(rates) - min(rates) <= min(rates) / 1000


def test_a_rate_that_changes_is_no_rate(tmp_path: Path) -> None:
    assert measured(tmp_path, CONSTANT.replace("constant_tsc", "")) is None


def test_another_architecture_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert measured(tmp_path, CONSTANT) is None
