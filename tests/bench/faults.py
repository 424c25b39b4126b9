"""How many of the faults that are seeded the tests catch."""

from __future__ import annotations

import dataclasses
from typing import Final

from harness.faults.campaign import Campaign
from harness.faults.score import Fate, Score
from harness.faults.table import FAULTS
from harness.testbed.selection import make_selection
from tests.bench.bench import Bench
from tests.bench.metrics import Summary

EXTRAS: Final = (Fate.ELSEWHERE, Fate.MISSED, Fate.MISJUDGED, Fate.NOT_APPLICABLE)


def faults_caught_percent(bench: Bench) -> Summary:
    """Return how many in a hundred were caught by a row that should, on every guest kernel.

    What ``imsh faults`` has kept of this very commit is taken over, and the rest is run.

    :raises HarnessError: the tests could not be run.
    """
    campaign = Campaign(
        faults=[*FAULTS.values()],
        kernels=make_selection().kernel_names(),
        progress=bench.progress,
        resume=True,
    )
    score = Score.of(campaign.findings())
    counts = {fate.value.replace(" ", "_"): float(score.fates[fate]) for fate in EXTRAS}
    summary = Summary.of([score.percent])
    return dataclasses.replace(summary, extra={"applicable": score.applicable, **counts})
