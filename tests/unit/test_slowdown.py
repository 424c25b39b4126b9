"""How time-outs are stretched on a slow or crowded machine."""

from __future__ import annotations

import os

import pytest

from harness.errors import ConfigError
from harness.host import slowdown
from harness.host.deadline import SLOWDOWN_VARIABLE, Deadline
from harness.host.slowdown import measure_slowdown, stretch_timeouts


def test_a_machine_is_never_faster_than_the_reference() -> None:
    assert measure_slowdown() >= 1.0


def test_more_workers_than_cpus_divide_them() -> None:
    crowd = 8 * len(os.sched_getaffinity(0))
    assert measure_slowdown(crowd) >= 8.0


def test_a_slower_machine_stretches_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slowdown, "REFERENCE_SECONDS", slowdown.REFERENCE_SECONDS / 100)
    assert measure_slowdown() > 20.0


def test_what_was_measured_applies_to_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SLOWDOWN_VARIABLE, "")
    factor = stretch_timeouts(workers=64)
    assert Deadline(2.0, "a wait").seconds == pytest.approx(2.0 * factor, rel=0.01)


def test_what_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SLOWDOWN_VARIABLE, "twice")
    with pytest.raises(ConfigError, match="IMSH_TIMEOUT_FACTOR='twice' is not a number above zero"):
        stretch_timeouts()


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SLOWDOWN_VARIABLE, "7")
    assert stretch_timeouts(workers=64) == 7.0
