"""Two kernels in real guests, compared: the patched one is the base with a fault seeded into it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.build.provision import Provisioner
from harness.errors import Verdict
from harness.host.progress import Progress
from harness.testbed.supplies import DEFAULT_KERNEL
from harness.validate.comparison import AGAIN, Change
from harness.validate.trial import Subject
from harness.validate.validation import Candidate, Validator

TESTS = ("tests/guest/test_invalidation.py", "tests/guest/test_clock.py")


@pytest.mark.slow
def test_a_fault_breaks_its_test_and_a_kernel_is_as_good_as_itself(
    provisioner: Provisioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A worker's own environment would make the inner pytest believe that it is one, too.
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        monkeypatch.delenv(name)
    stock = Subject(recipe=provisioner.recipes.kernels[DEFAULT_KERNEL])
    faulty = Subject(recipe=stock.recipe, words=("--fault", "moved-irte-is-not-invalidated"))
    validator = Validator(
        provisioner=provisioner,
        progress=Progress(None),
        directory=tmp_path,
        options=["--matrix", "quick"],
        tests=[*TESTS, "-k", "no_operation and IMS or clock"],
        workers=2,
        rounds=0,
    )
    harmless, broken = validator.validate(
        stock,
        [
            Candidate(name="patch-1", title="nothing", subject=stock),
            Candidate(name="patched", title="a fault", subject=faulty),
        ],
    )
    assert harmless.comparison is not None
    assert broken.comparison is not None
    assert set(harmless.comparison.counts) == {Change.SAME}
    assert harmless.comparison.verdict is Verdict.PASS
    (test,) = broken.comparison.of(Change.BROKEN)
    assert "test_no_operation_leaves_a_changed_irte" in test.test
    assert test.known.rows == ("G1",)
    assert (test.base.passed, test.patched.failed) == (1 + AGAIN, 1 + AGAIN)
    assert test.patched.failure is not None
    assert "nobody invalidated it" in test.patched.failure.error
    assert {len(item.base.outcomes) for item in broken.comparison.of(Change.SAME)} == {1}
    assert broken.comparison.verdict is Verdict.KERNEL_FAILURE
