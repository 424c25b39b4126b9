"""`make newest-demo`: the newest packaged source, built by our configuration, and tests run on it.

It takes a whole build of its own, for which `make validate-demo` has no time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from harness.build.provision import Provisioner
from harness.build.roots import RootRecipe
from tests.series.packaged import imsh, in_checkout, unpacked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NEWEST: Final = RootRecipe(("trixie-backports", "trixie"), ("linux-source",))
"""Of the same suites as the newest stock kernel (guests/kernels/debian-backports.yaml)."""
TESTS: Final = ("tests/guest/test_invalidation.py", "tests/guest/test_affinity.py")


@pytest.fixture(scope="module")
def newest(provisioner: Provisioner) -> Path:
    """The newest packaged source: a tree that is under no version control."""
    return unpacked(provisioner, "linux-newest", NEWEST, repository=False)


def test_the_newest_kernels_source_boots_and_passes_tests(newest: Path, tmp_path: Path) -> None:
    status, report = imsh("run", "--tree", newest, "--results", tmp_path)
    assert status == 0
    assert "verdict: pass" in report
    status, printed = in_checkout(
        *("pytest", "-p", "no:cacheprovider", "--tree", newest, "--matrix", "quick"),
        *(f"--results={tmp_path}", *TESTS, "-k", "IMS"),
    )
    assert status == 0
    assert " passed" in printed
