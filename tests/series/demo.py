"""`make validate-demo`: series of ours on the kernel's packaged source, validated and bisected.

    lost-invalidation/    eight patches, one of which leaves out an invalidation that it takes for
                          superfluous (rows G1, G3, B4)
    harmless/             four that change nothing that counts
    trap-per-interrupt/   two, one of which reads from the MSI-X table at every interrupt
    late-helper/          four; the second needs the third to compile, the last loses invalidations
    start-failure/        one; told to, the kernel panics, hangs or floods its console before init

They are made for linux-source-6.12, as `git format-patch` writes them. From a cold cache the kernel
is built once as a whole; the rest is what a series changes. The name of this file keeps it out of
`make test`, whose kernels are stock ones.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

import pytest

from harness.build.provision import Provisioner
from harness.build.roots import RootRecipe
from harness.host.deadline import timeout_factor
from tests.series.packaged import imsh, unpacked
from tests.unit.small_tree import git

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SERIES: Final = Path(__file__).parent
SOURCE: Final = RootRecipe(("trixie",), ("linux-source-6.12",))
CULPRIT: Final = "iommu/vt-d: Flush the interrupt entry cache only when it has to be"
CLAIM: Final = "test_no_operation_leaves_a_changed_irte_in_the_units_cache"
TESTS: Final = ("tests/guest/test_invalidation.py", "tests/guest/test_affinity.py")
MOVES: Final = "IMS and (no_operation or a_move_rewrites or raised_at_once)"
"""Of these tests, those that move an interrupt."""


@pytest.fixture(scope="module")
def tree(provisioner: Provisioner) -> Path:
    """The packaged source of 6.12, in a repository of one commit that has the tag "packaged"."""
    tree = unpacked(provisioner, "linux-with-git", SOURCE, repository=True)
    git(tree, "checkout", "--quiet", "--force", "--detach", "packaged")
    return tree


def one_line(text: str) -> str:
    """Return a report without the breaks of its lines: a long word may have one in its middle."""
    return re.sub(r"\s+", " ", text)


def spaceless(text: str) -> str:
    return re.sub(r"\s", "", text)


def test_validation_names_the_patch_that_loses_invalidations(tree: Path, tmp_path: Path) -> None:
    status, report = imsh(
        *("validate", "--tree", tree, "--series", SERIES / "lost-invalidation", "--per-patch"),
        *("--matrix", "quick", "--measure", "0", "--results", tmp_path, "--", *TESTS),
        *("-k", MOVES),
    )
    assert status == 1
    blocks = map(one_line, report.split("\n\n"))
    broken = [block for block in blocks if block.startswith("BROKEN")]
    assert {row for block in broken for row in re.findall(r"[ABG]\d", block)} >= {"B4", "G1", "G3"}
    assert all(f"since patch 6 of 8: {CULPRIT}" in block for block in broken)
    (claim,) = [block for block in broken if CLAIM in spaceless(block)]
    assert re.search(r"rows G1; base failed 0 of \d+, patched failed (\d+) of \1 ", claim)
    assert "nobody invalidated it" in claim


def test_bisection_finds_it_and_says_how_sure_it_is(tree: Path, tmp_path: Path) -> None:
    status, report = imsh(
        *("bisect", "--tree", tree, "--series", SERIES / "lost-invalidation"),
        *("--matrix", "quick", "--results", tmp_path, "--", f"{TESTS[0]}::{CLAIM}"),
    )
    assert status == 0
    found, _, rest = report.partition("It fails in")
    assert CULPRIT in one_line(found)
    assert "Author: A Developer <developer@example.org>" in found  # the patch's, not ours
    assert "spins until it is completed, with" in one_line(found)  # its log
    assert "drivers/iommu/intel/irq_remapping.c" in found
    assert "fails in 0 of 3." in one_line(rest)
    assert "nobody invalidated it" in one_line(rest)
    assert CLAIM in spaceless(rest)
    assert "imsh bisect --tree" in rest


def test_a_patch_that_does_not_compile_is_named_and_the_others_are_tried(
    tree: Path, tmp_path: Path
) -> None:
    status, report = imsh(
        *("validate", "--tree", tree, "--series", SERIES / "late-helper", "--per-patch"),
        *("--matrix", "quick", "--measure", "0", "--results", tmp_path, "--", TESTS[0]),
        *("-k", "IMS and no_operation"),
    )
    assert status == 1
    assert report.startswith("imsh validate: 1 of 4 does not build, 1 test broken")
    (unbuilt,) = [block for block in report.split("\n\n") if block.startswith("Does not build: ")]
    assert "patch 2 of 4: iommu/vt-d: Flush a single entry" in one_line(unbuilt)
    assert "implicit declaration of function 'flush_irte'" in one_line(unbuilt)
    each = one_line(report.partition("Patch by patch")[2])
    assert "Add flush_irte(): 1 same" in each
    assert "Do not flush what is in use already: 1 broken" in each


def test_bisection_goes_round_a_patch_that_does_not_compile(tree: Path, tmp_path: Path) -> None:
    status, report = imsh(
        *("bisect", "--tree", tree, "--series", SERIES / "late-helper"),
        *("--matrix", "quick", "--results", tmp_path, "--", f"{TESTS[0]}::{CLAIM}"),
    )
    assert status == 0
    found, _, rest = report.partition("It fails in")
    assert "iommu/vt-d: Do not flush what is in use already" in one_line(found)
    tried = one_line(rest.partition("What was tried")[2])
    assert re.search(r"skip \w+ iommu/vt-d: Flush a single entry .* does not build", tried)


def test_a_harmless_series_comes_out_clean(tree: Path, tmp_path: Path) -> None:
    status, report = imsh(
        *("validate", "--tree", tree, "--series", SERIES / "harmless", "--matrix", "quick"),
        *("--measure", "0", "--results", tmp_path, "--", *TESTS, "-k", MOVES),
    )
    assert status == 0
    assert "BROKEN" not in report
    assert "same" in report


def test_a_read_of_the_table_at_every_interrupt_is_named(tree: Path, tmp_path: Path) -> None:
    status, report = imsh(
        *("validate", "--tree", tree, "--series", SERIES / "trap-per-interrupt"),
        *("--matrix", "quick", "--measure", "4", "--results", tmp_path, "--", TESTS[0]),
        *("-k", MOVES),
    )
    assert status == 1
    assert "BROKEN" not in report
    cost = "MSI-X, interrupt: trapped accesses each (caching): 0 -> 1, worse; noise 0"
    assert cost in one_line(report)


@pytest.mark.parametrize(
    ("failure", "status", "verdict", "last_words"),
    [
        ("panic", 1, "kernel failure: panic in the guest", "start_failure=panic"),
        ("hang", 4, "time-out: the ready line", "Unpacking initramfs"),
        ("flood", 4, "time-out: the ready line", "start_failure=flood"),
    ],
)
def test_a_kernel_that_does_not_reach_init_is_told_with_its_console(
    tree: Path, tmp_path: Path, failure: str, status: int, verdict: str, last_words: str
) -> None:
    ended, report = imsh(
        *("run", "--tree", tree, "--series", SERIES / "start-failure"),
        *("--append", f"start_failure={failure}", "--results", tmp_path),
        IMSH_TIMEOUT_FACTOR=str(timeout_factor() / 2),  # it is a time-out all the same
    )
    assert ended == status
    assert f"verdict: {verdict}" in report
    assert last_words in report
    assert (failure == "panic") or "hint: " in report
    (evidence,) = tmp_path.iterdir()
    assert last_words in (evidence / "console.log").read_text(errors="replace")


def test_gits_own_bisection_goes_round_what_does_not_compile(tree: Path, tmp_path: Path) -> None:
    series = sorted(map(str, (SERIES / "late-helper").iterdir()))
    git(tree, "am", "--quiet", *series)
    try:
        git(tree, "bisect", "start", "HEAD", "packaged")
        validate = [sys.executable, "-m", "harness", "validate", "--tree", ".", "--git-bisect"]
        validate += ["--base", "packaged", "--matrix", "quick", "--measure", "0"]
        said = git(tree, "bisect", "run", *validate, "--results", str(tmp_path), "--",
                   f"{TESTS[0]}::{CLAIM}")  # fmt: skip
        assert "iommu/vt-d: Do not flush what is in use already" in said
        assert "is the first bad commit" in said
        assert "# skip: " in git(tree, "bisect", "log")
    finally:
        git(tree, "bisect", "reset")
        git(tree, "checkout", "--quiet", "--force", "--detach", "packaged")
