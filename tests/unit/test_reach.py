"""Threads that share a guest's port."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.errors import DeadlineExpired
from harness.host.deadline import Deadline
from harness.testbed.reach import TakingTurns


class OneAtATime:
    """An exchange that notices a second request before the first is answered."""

    def __init__(self) -> None:
        self.open = 0
        self.overlapped = False

    def ask(self, line: str, deadline: Deadline | None = None) -> str:
        self.open += 1
        time.sleep(0.005)
        self.overlapped |= self.open > 1
        self.open -= 1
        return line


def test_a_request_waits_for_the_answer_to_the_one_before() -> None:
    exchange = OneAtATime()
    port = TakingTurns(exchange)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(port.ask, map(str, range(40)))) == list(map(str, range(40)))
    assert not exchange.overlapped


def test_a_turn_that_does_not_come_is_a_time_out() -> None:
    class Asker(OneAtATime):
        def ask(self, line: str, deadline: Deadline | None = None) -> str:
            return port.ask(line, Deadline(0.05, "a turn"))

    port = TakingTurns(Asker())
    with pytest.raises(DeadlineExpired, match="a turn"):
        port.ask("x")
