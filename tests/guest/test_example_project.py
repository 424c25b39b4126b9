"""The example project of the documentation runs as its README says."""

from __future__ import annotations

import os
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from harness.host.deadline import Deadline
from harness.host.process import run

EXAMPLE = Path(__file__).parents[2] / "docs" / "example"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ET.Element:
    """Run the example outside the checkout, and return its JUnit report."""
    project = tmp_path_factory.mktemp("example") / "project"
    shutil.copytree(EXAMPLE, project)
    inherited = [name for name in os.environ if name.startswith("PYTEST_")]
    run(
        [
            *("env", *(f"--unset={name}" for name in inherited)),
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *("--kernel", "debian-6.12", "--machine", "caching", "--machine", "remapping-only"),
            *("--junit-xml", "report.xml"),
        ],
        deadline=Deadline(200, "the example project"),
        cwd=project,
        log=project / "log",
    )
    return ET.parse(project / "report.xml").getroot()


@pytest.mark.xdist_group("example")
def test_every_test_of_the_example_passes(report: ET.Element) -> None:
    suite = report.find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("5", "0", "0")


@pytest.mark.xdist_group("example")
def test_the_report_says_what_each_test_ran_on(report: ET.Element) -> None:
    for case in report.iter("testcase"):
        known = {item.get("name"): item.get("value") for item in case.iter("property")}
        assert known["verdict"] == "pass"
        assert known["kernel"] == "debian-6.12"
        assert known["machine"] in {"caching", "remapping-only"}
        assert known.keys() >= {"kernel package", "qemu", "qemu origin", "module", "imsh"}
