"""Progress: what a log and a terminal get to see of a step."""

from __future__ import annotations

import io
import re
import threading

import pytest

from harness.host.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_for_begin_and_end() -> None:
    log = io.StringIO()
    with Progress(log).step("unpacking"):
        pass
    assert re.fullmatch(r"unpacking \.\.\.\nunpacking: done in \d+\.\d s\n", log.getvalue())


@pytest.mark.parametrize(
    ("error", "said"), [(ZeroDivisionError, "failed"), (KeyboardInterrupt, "given up")]
)
def test_a_step_that_does_not_end_says_why(error: type[BaseException], said: str) -> None:
    log = io.StringIO()
    with pytest.raises(error), Progress(log).step("unpacking"):
        raise error
    assert re.search(rf"\nunpacking: {said} after \d+\.\d s\n$", log.getvalue())


def test_a_long_step_says_how_far_it_is() -> None:
    log = io.StringIO()
    asked = threading.Event()

    def state() -> str:
        asked.set()
        return "7 MB fetched"

    progress = Progress(log, interval=0.01)
    with progress.step("fetching", state):
        assert asked.wait(10)
    assert re.search(r"\nfetching: 7 MB fetched, \d+ s\n", log.getvalue())


def test_a_terminal_keeps_one_line_of_state() -> None:
    terminal = Terminal()
    asked = threading.Semaphore(0)

    def state() -> str:
        asked.release()
        return "far"

    with Progress(terminal, interval=0.01).step("fetching", state):
        for _ in range(3):
            assert asked.acquire(timeout=10)
    assert terminal.getvalue().count("\n") == 2
    assert "\r\x1b[Kfetching: far, 0 s" in terminal.getvalue()


def test_a_step_leaves_no_thread() -> None:
    before = threading.active_count()
    with Progress(io.StringIO(), interval=0.01).step("fetching"):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_a_silent_progress_starts_no_thread() -> None:
    before = threading.active_count()
    with Progress(None).step("fetching"):
        assert threading.active_count() == before
