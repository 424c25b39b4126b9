"""A few of what tests/soak/kills.py does hundreds of times."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.build.provision import Provisioner
from harness.testbed.supplies import DEFAULT_KERNEL
from tests.soak.kills import Runs

KILLS = 6


@pytest.mark.timeout(600)
def test_a_killed_run_leaves_nothing_and_the_next_one_passes(
    provisioner: Provisioner, tmp_path: Path
) -> None:
    provisioner.guest(provisioner.recipes.kernels[DEFAULT_KERNEL])
    runs = Runs(tmp_path)
    runs.undisturbed()
    length = runs.undisturbed()
    moments = [random.uniform(0, length) for _ in range(KILLS)]
    # The locks of the cache may be those of other tests' runs.
    left = {moment: runs.killed(moment) for moment in moments}
    assert not {m: found for m, found in left.items() if found.processes or found.temporary}
    runs.undisturbed()
