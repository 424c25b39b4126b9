"""What a validation costs beyond what it is made of."""

from __future__ import annotations

import os
import time
from typing import Final

from harness.host.deadline import Deadline
from harness.schema.names import choose
from harness.validate.trial import Subject, run_tests
from harness.validate.validation import Candidate, Validator
from tests.bench.bench import Bench
from tests.bench.metrics import Summary

ROUNDS: Final = 3
TESTS: Final = ("--matrix", "quick", "tests/guest/test_msi.py", "tests/guest/test_msix.py")
"""A part of the suite: what a validation adds does not grow with it."""
SECONDS: Final = 1800.0


def validate_overhead_ratio(bench: Bench) -> Summary:
    """Return the time of a validation over that of the same tests, run by hand on each kernel.

    Both kernels are the stock one, so that no build hides what the driver adds and nothing is run
    again; by hand, one kernel after the other has all workers.
    """
    recipe = choose(bench.provisioner.recipes.kernels, bench.kernel, what="kernel")
    stock = Subject(recipe=recipe)
    workers = len(os.sched_getaffinity(0))
    ratios = []
    for number in bench.counted("a validation, and its tests by hand", ROUNDS):
        workspace = bench.workspace(f"validate-{number}")
        start = time.monotonic()
        for side in ("base", "patched"):
            stock.provide(bench.provisioner)
            deadline = Deadline(SECONDS, "the tests by hand")
            run_tests(stock, TESTS, workspace.path(side), deadline, workers=workers)
        by_hand = time.monotonic() - start
        validator = Validator(
            provisioner=bench.provisioner,
            progress=bench.progress,
            directory=workspace.path("validated"),
            options=(),
            tests=TESTS,
            workers=workers,
            rounds=0,
        )
        start = time.monotonic()
        validator.validate(stock, [Candidate(name="patched", title="the same", subject=stock)])
        ratios.append((time.monotonic() - start) / by_hand)
    return Summary.of(ratios)
