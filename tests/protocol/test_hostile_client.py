"""A bounded part of what tests/bench runs in full: a hostile client leaves a server as it was."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.protocol import hostile_client
from tests.protocol.hostile_client import Descriptors, besieged
from tests.protocol.vfio_checks import ending_with

MESSAGES = 12_000


@pytest.mark.parametrize("seed", [1, 2])
def test_a_hostile_client_leaves_the_server_as_it_was(tmp_path: Path, seed: int) -> None:
    with besieged(seed, tmp_path) as siege:
        assert siege.play(MESSAGES).messages >= MESSAGES


def test_what_breaks_the_server_is_told_with_seed_and_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostile_client, "ANSWER_SECONDS", 0.2)
    with ending_with(Exception) as caught, besieged(7, tmp_path) as siege, Descriptors() as fds:
        siege.server.signal(signal.SIGSTOP)
        try:
            for number in range(20):
                siege.episode(number, fds)
        finally:
            siege.server.signal(signal.SIGCONT)
    assert any("seed 7, episode 0, message" in note for note in caught.value.__notes__)


def test_a_server_that_dies_is_noticed(tmp_path: Path) -> None:
    with ending_with(Exception), besieged(7, tmp_path) as siege:
        siege.server.signal(signal.SIGKILL)
        siege.play(MESSAGES)
