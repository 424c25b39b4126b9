"""Which kernels and machines a run of the tests covers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.config.matrix import Matrix
from harness.config.recipes import RECIPES_VARIABLE, load_machines, load_matrices, load_recipes
from harness.config.schema import loads
from harness.errors import ConfigError
from harness.host.deadline import Deadline
from harness.host.process import run
from harness.testbed.selection import make_selection

KERNELS = ["debian-6.1", "debian-6.12", "debian-backports"]

MATRIX = """
description: two kernels, three machines, one cell left out
kernels: [debian-6.12, debian-6.1]
machines: [caching, remapping-only, no-iommu]
leave_out:
- {kernel: debian-6.1, machine: no-iommu}
"""


@pytest.fixture(autouse=True)
def only_our_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RECIPES_VARIABLE, raising=False)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Write a file of a directory of recipes."""

    def write(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


def names(*cells: object) -> list[str]:
    return [str(cell) for cell in cells]


# Matrices.


def test_every_matrix_of_the_project_covers_something() -> None:
    assert {"default", "quick"} <= load_matrices().keys()
    for name in load_matrices():
        assert make_selection(name).cells()


def test_a_matrix_without_kernels_has_them_all() -> None:
    cells = make_selection().cells()
    assert [cell.kernel for cell in cells if cell.machine == "caching"] == KERNELS
    assert {cell.machine for cell in cells} == {"caching", "remapping-only"}


def test_a_cell_that_is_left_out_is_not_covered(write: Callable[[str, str], str]) -> None:
    cells = make_selection(write("mine.yaml", MATRIX)).cells()
    assert names(*cells) == [
        "debian-6.12-caching",
        "debian-6.12-remapping-only",
        "debian-6.12-no-iommu",
        "debian-6.1-caching",
        "debian-6.1-remapping-only",
    ]


def test_a_test_for_a_kernel_runs_where_the_matrix_has_it(
    write: Callable[[str, str], str],
) -> None:
    coverage = make_selection(write("mine.yaml", MATRIX), only_machines=["caching"])
    assert names(*coverage.cells(kernels=["debian-6.1"])) == ["debian-6.1-caching"]
    assert coverage.cells(kernels=["debian-backports"]) == []


def test_a_test_for_a_machine_runs_on_it_whatever_the_matrix_has() -> None:
    cells = make_selection("quick").cells(machines=["caching-xapic"])
    assert names(*cells) == ["debian-6.12-caching-xapic"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MATRIX.replace("debian-6.1]", "debian-6.2]"), "no kernel named 'debian-6.2'"),
        (MATRIX.replace("no-iommu]", "no-mmu]"), "no machine named 'no-mmu'"),
        (MATRIX.replace("machine: no-iommu", "machine: no-mmu"), "no machine named 'no-mmu'"),
        (MATRIX.replace("kernel: debian-6.1,", "kernel: 6,"), r"leave_out\[0\].kernel: must be"),
        (MATRIX.replace("caching, ", "caching, caching, "), "machine caching stands here twice"),
        ("description: x\nmachines: []\n", "at least one kernel and one machine"),
        ("description: x\nmachines: [caching]\nkernels: []\n", "at least one kernel"),
    ],
)
def test_a_wrong_matrix_is_refused(
    write: Callable[[str, str], str], text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_selection(write("mine.yaml", text))
    assert "mine.yaml" in str(caught.value)


def test_a_kernel_that_is_asked_for_and_not_in_the_matrix_is_told() -> None:
    with pytest.raises(ConfigError, match=r"the matrix quick has no kernel 'debian-6.1'"):
        make_selection("quick", only_kernels=["debian-6.1"])


def test_the_name_of_a_matrix_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match=r"no matrix named 'quik'[\s\S]*did you mean quick"):
        make_selection("quik")


PLANNER = """
import sys
for name in ("pytest", "_pytest", "xdist"):
    sys.modules[name] = None  # an import of it fails
from harness.host.deadline import Deadline
from harness.host.process import run
from harness.testbed.selection import make_selection
print(*make_selection("quick").cells())
"""


def test_a_planner_selects_without_pytest() -> None:
    said = run([sys.executable, "-c", PLANNER], deadline=Deadline(30, "a planner"))
    assert said.stdout == "debian-6.12-caching\n"


# A directory of recipes of the user's own.


def test_recipes_of_the_user_stand_beside_ours(
    write: Callable[[str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("machines/four-cpus.yaml", "description: four CPUs\ncpus: 4\n")
    write("matrices/mine.yaml", "description: mine\nmachines: [four-cpus]\n")
    monkeypatch.setenv(RECIPES_VARIABLE, str(tmp_path))
    assert load_machines()["four-cpus"].cpus == 4
    assert load_machines().keys() > {"caching"}
    assert list(load_recipes().kernels) == KERNELS
    assert len(make_selection("mine").cells()) == 3


def test_a_name_of_ours_is_not_replaced(
    write: Callable[[str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("machines/caching.yaml", "description: another\n")
    monkeypatch.setenv(RECIPES_VARIABLE, str(tmp_path))
    with pytest.raises(ConfigError, match=r"machines/caching\.yaml: imsh has a recipe of that"):
        load_machines()


def test_a_directory_that_holds_no_recipes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RECIPES_VARIABLE, str(tmp_path))
    with pytest.raises(ConfigError, match="is no directory of recipes") as caught:
        load_machines()
    assert "kernels/, machines/, matrices/" in str(caught.value)


def test_matrices_are_data(tmp_path: Path) -> None:
    matrix = loads(MATRIX, Matrix, file=str(tmp_path / "mine.yaml"))
    assert matrix.name == "mine"
    assert len(matrix.cells(KERNELS)) == 5


# The command line.

TESTS = """
import pytest

def test_everywhere(vm): pass

@pytest.mark.kernel("debian-6.1")
def test_of_a_kernel(vm): pass

@pytest.mark.machine("no-iommu")
def test_of_a_machine(vm): pass

def test_of_no_guest(): pass
"""


def collected(pytester: pytest.Pytester, *options: str) -> list[str]:
    pytester.makepyfile(TESTS)
    words = ("--collect-only", "-q", "-p", "no:cacheprovider", *options)
    lines = pytester.runpytest_subprocess(*words).outlines
    return [line.rpartition("::test_")[2] for line in lines if "::" in line]


def test_tests_are_collected_for_the_cells_of_a_matrix(pytester: pytest.Pytester) -> None:
    assert collected(pytester, "--matrix", "quick") == [
        "everywhere[debian-6.12-caching]",
        "of_a_machine[debian-6.12-no-iommu]",
        "of_no_guest",
    ]


def test_tests_are_collected_for_what_the_command_line_leaves(pytester: pytest.Pytester) -> None:
    assert collected(pytester, "--kernel", "debian-6.1", "--machine", "caching") == [
        "everywhere[debian-6.1-caching]",
        "of_a_kernel[debian-6.1-caching]",
        "of_no_guest",
    ]


@pytest.mark.parametrize(("machine", "marked"), [("no-iommu", ["of_a_machine"]), ("caching", None)])
def test_a_machine_that_the_matrix_lacks_is_said_to_be_the_reason(
    pytester: pytest.Pytester, machine: str, marked: list[str] | None
) -> None:
    pytester.makepyfile(TESTS)
    words = ("--collect-only", "-q", "-p", "no:cacheprovider", "--machine", machine)
    lines = pytester.runpytest_subprocess(*words).outlines
    said = [line for line in lines if f"has no machine {machine}" in line]
    assert bool(said) is (marked is not None)
    if marked is not None:
        ran = {line.rpartition("::test_")[2].partition("[")[0] for line in lines if "::" in line}
        assert ran == {*marked, "of_no_guest"}


def test_tests_that_share_a_guest_are_kept_together(pytester: pytest.Pytester) -> None:
    shared = TESTS.replace("def test_everywhere", '@pytest.mark.shared_vm("module")\ndef test_a')
    pytester.makepyfile(shared)
    words = ("--collect-only", "-q", "--matrix", "quick", "-m", "xdist_group")
    lines = pytester.runpytest_subprocess(*words, "-p", "no:cacheprovider").outlines
    assert [line for line in lines if "::" in line] == [
        "test_tests_that_share_a_guest_are_kept_together.py::test_a[debian-6.12-caching]"
    ]


def test_a_wrong_option_ends_the_run_before_any_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("--matrix", "quik", "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: there is no matrix named 'quik'", "hint: *"])


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ('machine("no-mmu")', "there is no machine named 'no-mmu'"),
        ("device(msix_vector=3)", "device marker: *unexpected keyword argument 'msix_vector'"),
        ("device(msix_vectors=3000)", "msix_vectors: 3000 is not in 0..2048"),
        ('shared_vm("session")', "shared_vm('session'): it is shared by a class or by a module"),
        ('shared_vm("class")', "shared_vm('class'): it is shared by a class or by a module"),
    ],
)
def test_a_wrong_marker_names_the_test_before_anything_runs(
    pytester: pytest.Pytester, marker: str, message: str
) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.{marker}\ndef test_x(ims_device): pass")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*::test_x: {message}"])
    result.stdout.no_fnmatch_line("*Error*:*")
