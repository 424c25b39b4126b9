"""Verdicts of tests, and the evidence that a failed one leaves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from typing import Final

import pytest

from harness.config.recipes import RECIPES_VARIABLE
from harness.errors import MissingRequirement, Verdict
from harness.host.process import shell_line
from harness.pytest_plugin.cells import cell_of, cells_of, rows_of
from harness.pytest_plugin.options import run_directory
from harness.pytest_plugin.record import plain_nodeid
from harness.report.run_store import FAILED
from harness.report.verdict import graver, verdict_of
from harness.testbed.evidence import own_directory
from harness.testbed.plugged import PluggedFunction
from harness.testbed.trees import TREE_OPTIONS, tree_recipe, tree_words
from harness.testbed.vm import Vm

VM: Final = pytest.StashKey[Vm]()
"""The guest of a test, while there is one."""
DEVICE: Final = pytest.StashKey[PluggedFunction]()
"""Its IMS function, likewise."""
PROVENANCE: Final = pytest.StashKey[dict[str, str]]()
"""What its machine is made of."""
VERDICT: Final = pytest.StashKey[Verdict]()
"""What its phases so far came to."""
EVIDENCE: Final = pytest.StashKey[dict[str, str]]()
"""Where the evidence of its failure is, once that is kept."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say of each phase what the test's verdict is so far, and keep the evidence of a failure."""
    report = yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, MissingRequirement) and not item.config.getoption("require"):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, f"missing requirement: {error}")
    verdict = graver(_verdict(item, report, error), item.stash.get(VERDICT, Verdict.PASS))
    item.stash[VERDICT] = verdict
    if report.failed:
        if EVIDENCE not in item.stash:
            keep_evidence(item)
        said = {"verdict": verdict.value} | item.stash[EVIDENCE]
        text = "\n".join(f"{name + ':':<10} {value}" for name, value in said.items())
        report.sections.append(("imsh", text))
    report.user_properties += [
        ("verdict", verdict.value),
        ("rows", " ".join(rows_of(item))),
        ("cells", " ".join(cells_of(item))),
        *_provenance(item).items(),
        *item.stash.get(EVIDENCE, {}).items(),
    ]
    return report


def _verdict(item: pytest.Item, report: pytest.TestReport, error: BaseException | None) -> Verdict:
    if report.passed:
        return Verdict.PASS
    if report.skipped and not hasattr(report, "wasxfail"):
        return Verdict.MISSING_REQUIREMENT
    if error is None:  # it passed, and was marked as one that fails
        return Verdict.HARNESS_FAILURE
    return verdict_of(error, about_guest=cell_of(item) is not None)


def _provenance(item: pytest.Item) -> dict[str, str]:
    """Return what is known of the machine: all about it, or what it was to be."""
    if known := item.stash.get(PROVENANCE, None):
        return known
    cell = cell_of(item)
    return {"kernel": cell.kernel, "machine": cell.machine} if cell else {}


def keep_evidence(item: pytest.Item) -> None:
    """Copy what the machine left, and note where it is and what runs the test again."""
    name = plain_nodeid(item.nodeid)
    evidence: dict[str, str] = {}
    item.stash[EVIDENCE] = evidence
    if machine := item.stash.get(VM, None):
        if plugged := item.stash.get(DEVICE, None):
            plugged.dump()
        machine.dump()
        try:
            target = own_directory(run_directory(item.config) / FAILED, name.rpartition("/")[2])
            shutil.copytree(machine.workspace.directory, target, dirs_exist_ok=True)
            evidence["evidence"] = str(target)
        except OSError as error:  # the verdict is worth more
            evidence["evidence"] = f"not kept: {error}"
    matrix = item.config.getoption("matrix")
    tree = tree_recipe(*map(item.config.getoption, TREE_OPTIONS))
    words = ["pytest", *(tree_words(tree) if tree else [])]
    words += [*(["--matrix", matrix] if matrix else []), name]
    own = {name: os.environ[name] for name in (RECIPES_VARIABLE,) if name in os.environ}
    evidence["reproduce"] = shell_line(words, own)
