"""The example project of the documentation runs as its README says."""

from __future__ import annotations

import os
import shutil
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.host.deadline import Deadline
from harness.host.process import run

CHECKOUT = Path(__file__).parents[2]
EXAMPLE = CHECKOUT / "docs" / "example"


@dataclass(frozen=True)
class Project:
    """A copy of the example outside the checkout, with imsh installed from its wheel."""

    directory: Path

    def run(self, *words: str) -> str:
        """Run a Python program of the project; return what it printed."""
        inherited = [name for name in os.environ if name.startswith("PYTEST_")]
        env = [
            *("env", *(f"--unset={name}" for name in inherited)),
            f"PYTHONPATH={self.directory / 'site'}",
            f"IMSH_RECIPES={self.directory / 'recipes'}",
        ]
        deadline = Deadline(200, f"python {words[0]} {words[1]}")
        return run([*env, sys.executable, *words], deadline=deadline, cwd=self.directory).stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Install imsh as pip does, but for the packages that it depends on: they are here."""
    project = Project(tmp_path_factory.mktemp("example") / "project")
    shutil.copytree(EXAMPLE, project.directory)
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    project.run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", "wheel", str(CHECKOUT))
    (wheel,) = (project.directory / "wheel").iterdir()
    project.run(
        *pip, "install", "--no-deps", "--no-index", "--no-compile", "--target", "site", str(wheel)
    )
    return project


@pytest.fixture(scope="module")
def report(project: Project) -> ET.Element:
    """Run the example's tests, and return the JUnit report."""
    plugins = ("-p", "no:cacheprovider", "-p", "no:xdist")
    project.run("-m", "pytest", *plugins, "--matrix", "nightly", "--junit-xml", "report.xml")
    return ET.parse(project.directory / "report.xml").getroot()


@pytest.mark.xdist_group("example")
def test_the_example_uses_what_was_installed(project: Project) -> None:
    program = "import harness.host.resources as r; print(r.__file__, r.resource('guests/module'))"
    for path in project.run("-c", program).split():
        assert path.startswith(f"{project.directory}/site/harness/")


@pytest.mark.xdist_group("example")
def test_every_test_of_the_example_passes(report: ET.Element) -> None:
    suite = report.find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("6", "0", "0")


@pytest.mark.xdist_group("example")
def test_the_report_says_what_each_test_ran_on(report: ET.Element) -> None:
    for case in report.iter("testcase"):
        known = {item.get("name"): item.get("value") for item in case.iter("property")}
        assert known["verdict"] == "pass"
        assert known["kernel"] == "debian-6.12"
        assert known["machine"] in {"caching", "remapping-only", "one-cpu"}
        assert known.keys() >= {"kernel package", "qemu", "qemu origin", "module", "imsh"}
