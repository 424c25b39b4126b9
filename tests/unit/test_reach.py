"""Threads that share a guest's port."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.errors import DeadlineExpired
from harness.host.deadline import Deadline
from harness.testbed.reach import TakingTurns


def never(_: str) -> bool:
    """No answer is late."""
    return False


class OneAtATime:
    """An exchange that notices a second request before the first is answered."""

    def __init__(self) -> None:
        self.open = 0
        self.overlapped = False

    def ask(self, line: str, deadline: Deadline, late: Callable[[str], bool]) -> str:
        self.open += 1
        time.sleep(0.005)
        self.overlapped |= self.open > 1
        self.open -= 1
        return line


def test_a_request_waits_for_the_answer_to_the_one_before() -> None:
    exchange = OneAtATime()
    port = TakingTurns(exchange)

    def ask(line: str) -> str:
        return port.ask(line, Deadline(10, "a turn"), never)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, map(str, range(40)))) == list(map(str, range(40)))
    assert not exchange.overlapped


def test_a_turn_that_does_not_come_is_a_time_out() -> None:
    class Asker(OneAtATime):
        def ask(self, line: str, deadline: Deadline, late: Callable[[str], bool]) -> str:
            return port.ask(line, Deadline(0.05, "a turn"), late)

    port = TakingTurns(Asker())
    with pytest.raises(DeadlineExpired, match="a turn"):
        port.ask("x", Deadline(10, "an answer"), never)
