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
from harness.host.deadline import Deadline

KERNEL = "debian-6.1"
COMPILER = "gcc-12"


@pytest.fixture
def installed(provisioner: Provisioner, tmp_path: Path) -> tuple[Path, Path]:
    """Return an image and a modules directory whose link ``build`` leads to headers."""
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


@pytest.mark.skipif(not shutil.which(COMPILER), reason=f"the headers of 6.1 ask for {COMPILER}")
def test_a_distributions_kernel_is_a_guest(
    installed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, modules = installed
    words = ["run", "--vmlinuz", str(image), "--modules", str(modules), "--json"]
    status = main([*words, "--results", str(tmp_path / "results")])
    said = capsys.readouterr()
    assert status == 0, said.err
    assert json.loads(said.out)["provenance"]["kernel release"] == modules.name


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
