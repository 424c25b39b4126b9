"""The command's log, read and not read."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator

import pytest

from harness.cli.log_handler import LossyHandler


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def log_to(handler: logging.Handler, text: str) -> None:
    handler.handle(logging.LogRecord("x", logging.INFO, __file__, 1, text, None, None))


def test_what_is_read_comes_whole_and_in_order(pipe: tuple[int, int]) -> None:
    handler = LossyHandler(pipe[1])
    long = "y" * 20_000
    for text in ("first", long, "last"):
        log_to(handler, text)
    assert os.read(pipe[0], 1 << 16).decode().split() == ["first", long, "last"]


def test_a_log_that_nobody_reads_stops_nobody_and_says_later_what_is_missing(
    pipe: tuple[int, int],
) -> None:
    handler = LossyHandler(pipe[1])
    began = time.monotonic()
    for number in range(5000):
        log_to(handler, f"line {number} " + "x" * 100)
    assert time.monotonic() - began < 5
    kept = os.read(pipe[0], 1 << 20).decode().splitlines()
    log_to(handler, "read again")
    missing, again = os.read(pipe[0], 1 << 20).decode().splitlines()
    assert missing.startswith(f"... {5000 - len(kept)} lines left out")
    assert again == "read again"
