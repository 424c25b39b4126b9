"""A kernel that is built already: a distribution's image, modules and headers, by their paths.

The packaged 6.1 is laid out as if it were installed. Its headers come with programs that run on any
newer host, and ask for the compiler of their own release.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.build.provision import Provisioner
from harness.build.sandbox import HOST
from harness.cli.main import main
from harness.errors import Verdict
from harness.host.deadline import Deadline
from tests.guest.inner_run import run_tests

KERNEL = "debian-6.1"
COMPILER = "gcc-12"

INNER = """
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store


def test_a_message_arrives(ims_device):
    ims_device.set_up(Store.MSIX, 1)
    ims_device.model.raise_and_wait(Store.MSIX, 0, Deadline(5, "an answer"))
"""


_needs_compiler = pytest.mark.skipif(
    not shutil.which(COMPILER), reason=f"the headers of 6.1 ask for {COMPILER}"
)


@pytest.fixture(scope="module")
def installed(
    provisioner: Provisioner, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Return an image and a modules directory whose link ``build`` leads to headers."""
    tmp_path = tmp_path_factory.mktemp("installed")
    kernel = provisioner.kernel(provisioner.recipes.kernels[KERNEL])
    root = kernel.toolchain.root
    headers = root / (kernel.modules / "build").readlink().relative_to("/")
    common = root / (kernel.modules / "source").readlink().relative_to("/")
    for directory in (headers, common):
        shutil.copytree(directory, tmp_path / directory.name)
    (tmp_path / headers.name / "Makefile").write_text(f"include {tmp_path}/{common.name}/Makefile")
    modules = tmp_path / kernel.release
    modules.mkdir()
    for path in kernel.modules.iterdir():
        if not path.is_symlink():
            (modules / path.name).symlink_to(path)
    (modules / "build").symlink_to(tmp_path / headers.name)
    return kernel.vmlinuz, modules


@_needs_compiler
@pytest.mark.xdist_group("finished build")
def test_a_distributions_kernel_is_a_guest(
    installed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, modules = installed
    words = ["run", "--vmlinuz", str(image), "--modules", str(modules), "--json"]
    status = main([*words, "--results", str(tmp_path / "results")])
    said = capsys.readouterr()
    assert status == 0, said.err
    assert json.loads(said.out)["provenance"]["kernel release"] == modules.name


@_needs_compiler
@pytest.mark.xdist_group("finished build")
@pytest.mark.timeout(280)
def test_the_tests_take_it_for_their_guest(installed: tuple[Path, Path], tmp_path: Path) -> None:
    image, modules = installed
    words = ["--vmlinuz", str(image), "--modules", str(modules), "--machine", "caching"]
    ran = run_tests(tmp_path, INNER, *words)
    (outcome,) = ran.outcomes().values()
    assert outcome.verdict is Verdict.PASS, ran.printed
    assert outcome.provenance["kernel release"] == modules.name


def test_a_build_by_the_hosts_compiler_sees_the_compiler_and_no_more(
    provisioner: Provisioner, tmp_path: Path
) -> None:
    shown, log = tmp_path / "shown", tmp_path / "log"
    shown.mkdir()
    (tmp_path / "secret").touch()
    provisioner.sandbox.run_step(
        ["sh", "-c", f"ls / {tmp_path} /etc; touch {shown}/x /usr/x /x || :; id -u"],
        root=HOST,
        step="looking around",
        log=log,
        deadline=Deadline(60, "the step"),
        readable={str(shown): shown},
    )
    said = log.read_text().split()
    assert {"usr", "shown"} <= set(said)
    assert not {"home", "root", "var", "secret", "passwd"} & set(said)
    assert log.read_text().count("Read-only file system") == 3
