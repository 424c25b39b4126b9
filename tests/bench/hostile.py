"""How much of a hostile client's malice a served device survives, and how fast."""

from __future__ import annotations

import dataclasses
from typing import Final

from tests.bench.bench import Bench
from tests.bench.metrics import Summary
from tests.protocol.hostile_client import besieged

MESSAGES: Final = 1_000_000
SEED: Final = 1


def hostile_messages(bench: Bench) -> Summary:
    """Return the number of messages that a served device survived; ``per_s`` of them a second.

    :raises AssertionError: it did not; seed and episode are in the notes.
    """
    survived = 0
    seconds = 0.0
    directory = bench.workspace("hostile").directory
    for number in bench.counted("a hostile client", 1):
        with besieged(SEED + number, directory) as siege:
            result = siege.play(MESSAGES)
        survived += result.messages
        seconds += result.seconds
    summary = Summary.of([float(survived)])
    return dataclasses.replace(summary, extra={"per_s": survived / seconds})
