"""A machine's life: the first cause counts, and everybody hears of it."""

from __future__ import annotations

import threading
import time

import pytest

from harness.errors import GuestPanic, QemuExited
from harness.qemu.vitals import Vitals


def test_the_first_error_is_the_one_that_counts() -> None:
    vitals = Vitals()
    panic = GuestPanic("first")
    vitals.lose(panic)
    vitals.lose(QemuExited("later"))
    assert vitals.error is panic


def test_every_later_check_raises_the_original_error() -> None:
    vitals = Vitals()
    vitals.check()
    vitals.lose(GuestPanic("first"))
    for _ in range(2):
        with pytest.raises(GuestPanic, match="first"):
            vitals.check()


def test_a_listener_is_called_once_at_the_loss() -> None:
    vitals = Vitals()
    calls: list[str] = []
    with vitals.on_loss(lambda: calls.append("lost")):
        assert calls == []
        vitals.lose(GuestPanic("first"))
        vitals.lose(QemuExited("later"))
    assert calls == ["lost"]


def test_a_late_listener_is_called_at_once() -> None:
    vitals = Vitals()
    vitals.lose(GuestPanic("first"))
    calls: list[str] = []
    with vitals.on_loss(lambda: calls.append("lost")):
        assert calls == ["lost"]


def test_a_listener_that_has_left_is_not_called() -> None:
    vitals = Vitals()
    calls: list[str] = []
    with vitals.on_loss(lambda: calls.append("lost")):
        pass
    vitals.lose(GuestPanic("first"))
    assert calls == []


def test_who_waits_for_the_loss_is_woken_by_it() -> None:
    vitals = Vitals()
    timer = threading.Timer(0.05, vitals.lose, [GuestPanic("first")])
    timer.start()
    start = time.monotonic()
    assert isinstance(vitals.wait_lost(10.0), GuestPanic)
    assert time.monotonic() - start < 5
    timer.join()


def test_a_wait_for_a_loss_that_does_not_come_ends() -> None:
    assert Vitals().wait_lost(0.01) is None
