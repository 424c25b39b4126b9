"""What a validation compares, which rows it looks at first, and what it calls a change of cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build.kernel import KernelRecipe, TreeSource
from harness.build.roots import RootRecipe, Roots
from harness.build.sandbox import Sandbox
from harness.build.series import PatchDoesNotApply
from harness.build.tree import Trees
from harness.cli.main import main
from harness.errors import ConfigError, Verdict
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.report.capabilities import capability_rows
from harness.report.measurement import measured
from harness.report.outcome import Outcome
from harness.validate.cost import compare_costs
from harness.validate.states import States, changed_paths, read_states
from harness.validate.telling import telling_rows, telling_table
from tests.unit.small_tree import FILE, change, commit, git, make_tree


class Work:
    """A tree of a user's with a base and two commits, and what reads its states."""

    def __init__(self, directory: Path):
        self.tree = make_tree(directory / "linux")
        self.base = commit(self.tree, "the base")
        change(self.tree, "two", "TWO")
        commit(self.tree, "first: say it louder")
        change(self.tree, "four", "FOUR")
        self.tip = commit(self.tree, "second: this too")
        cache = Cache(directory / "cache", Progress(None))
        roots = Roots(cache)
        recipe = RootRecipe(("suite",), ("gcc",))
        self.trees = Trees(roots, Sandbox(roots), cache, recipe)

    def recipe(self, revision: str | None = None, *series: str) -> KernelRecipe:
        return KernelRecipe("tree-linux", "it", tree=TreeSource(str(self.tree), revision, series))

    def read(self, recipe: KernelRecipe, base: str | None, *, per_patch: bool = False) -> States:
        return read_states(self.trees, recipe, base, per_patch=per_patch)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def titles(states: States) -> list[str]:
    return [item.title for item in states.candidates]


def test_the_tree_as_it_is_counts_with_what_is_not_committed(work: Work) -> None:
    change(work.tree, "five", "FIVE")
    states = work.read(work.recipe(), work.base)
    assert [item.name for item in states.candidates] == ["patched"]
    assert states.candidates[0].subject.version.endswith(", changed")
    assert states.base.options == ["--tree", str(work.tree), "--rev", work.base]
    assert states.candidates[0].subject.options == ["--tree", str(work.tree)]


def test_each_commit_on_the_base_is_a_patch_and_the_rest_is_the_last(work: Work) -> None:
    subjects = ["first: say it louder", "second: this too"]
    states = work.read(work.recipe(), work.base, per_patch=True)
    assert titles(states) == [f"patch {n} of 2: {text}" for n, text in enumerate(subjects, 1)]
    assert states.series == tuple(subjects)
    change(work.tree, "five", "FIVE")
    more = work.read(work.recipe(), work.base, per_patch=True)
    assert titles(more)[-1] == "patch 3 of 3: the work tree"
    assert [item.name for item in more.candidates] == ["patch-1", "patch-2", "patched"]


def test_a_series_goes_on_top_of_its_base(work: Work) -> None:
    series = f"{work.base}..{work.tip}"
    states = work.read(work.recipe(None, series), work.base, per_patch=True)
    assert len(states.candidates) == 2
    assert states.candidates[-1].subject.options[-2:] == ["--series", series]
    assert "--series" not in states.base.options
    assert changed_paths(work.trees, work.recipe(None, series), states) == [FILE]


def test_a_patch_that_the_branch_has_goes_on_top_of_the_commit_before_it(
    work: Work, tmp_path: Path
) -> None:
    # As `b4 prep --check` hands over each patch of the branch that is checked out.
    change(work.tree, "five", "FIVE")
    commit(work.tree, "third: and this")
    mail = tmp_path / "second.patch"
    mail.write_text(git(work.tree, "format-patch", "--stdout", "-1", work.tip) + "\n")
    states = work.read(work.recipe(None, str(mail)), None)
    first = git(work.tree, "rev-parse", f"{work.tip}~")
    assert states.base.options == ["--tree", str(work.tree), "--rev", first]
    assert states.candidates[0].subject.state is not None
    assert states.candidates[0].subject.state.content == git(
        work.tree, "rev-parse", f"{work.tip}^{{tree}}"
    )


def test_a_patch_that_only_has_the_name_of_a_commit_goes_on_top_of_the_tree(
    work: Work, tmp_path: Path
) -> None:
    git(work.tree, "checkout", "--quiet", work.base)
    (work.tree / "Kbuild").write_text("another\n")
    commit(work.tree, "second: this too")
    mail = tmp_path / "another.patch"
    mail.write_text(git(work.tree, "format-patch", "--stdout", "-1") + "\n")
    git(work.tree, "checkout", "--quiet", work.tip)
    states = work.read(work.recipe(None, str(mail)), None)
    assert states.base.options == ["--tree", str(work.tree)]


def test_a_series_for_another_base_is_refused_by_name(work: Work) -> None:
    with pytest.raises(PatchDoesNotApply, match="patch 1, 'first: say it louder'"):
        work.read(work.recipe(None, f"{work.base}..{work.tip}"), work.tip)


@pytest.mark.parametrize(
    ("base", "revision", "series", "message"),
    [
        (None, None, (), "nothing to compare with"),
        ("HEAD", None, (), "are the same, file by file"),
        ("HEAD", "HEAD~1", ("HEAD~1..HEAD",), "--rev names what is compared"),
        ("v9", None, (), "no revision 'v9'"),
    ],
)
def test_what_cannot_be_compared_is_an_error_that_says_why(
    work: Work, base: str | None, revision: str | None, series: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        work.read(work.recipe(revision, *series), base)


def test_a_series_that_does_not_apply_is_a_report_of_its_own(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IMSH_CACHE", str(tmp_path / "other-cache"))
    words = ["--tree", str(work.tree), "--base", work.tip, "--results", str(tmp_path / "kept")]
    patch = tmp_path / "one.patch"
    patch.write_text(git(work.tree, "format-patch", "-1", "--stdout", "HEAD~1") + "\n")
    assert main(["validate", *words, "--series", str(patch)]) == 1
    said = capsys.readouterr().out
    assert said.startswith("imsh validate: the series does not apply\n")
    assert "'first: say it louder' (one.patch)" in " ".join(said.replace("|", " ").split())
    assert len(list(tmp_path.glob("kept/*/report.txt"))) == 1
    assert main(["validate", *words, "--series", str(patch), "--git-bisect"]) == 125


def test_every_row_of_the_table_of_paths_is_one_of_the_capability_table() -> None:
    known = capability_rows()
    assert [row for rows in telling_table().values() for row in rows if row not in known] == []


def test_the_most_telling_rows_of_all_touched_paths_come_first() -> None:
    rows = telling_rows(["kernel/irq/msi.c", "drivers/iommu/intel/irq_remapping.c", "README"])
    assert rows[:2] == list(telling_table()["drivers/iommu/intel/irq_remapping.c"][:2])
    assert set(telling_table()["kernel/irq/msi.c"]) <= set(rows)
    assert len(rows) == len(set(rows))
    assert telling_rows(["Documentation/index.rst"]) == []


@pytest.mark.parametrize(
    ("base", "patched", "called"),
    [
        ([0, 0, 0, 0], [1, 1, 1, 1], "worse"),
        ([2, 2, 2, 2], [1, 1, 1, 1], "better"),
        ([0, 0, 0], [1, 1, 1], ""),
        ([1, 1, 1, 1], [1, 1, 1, 1], ""),
        ([100, 104, 98, 101], [106, 103, 105, 104], ""),
        ([100, 104, 98, 101], [110, 113, 111, 112], "worse"),
        ([100, 100, 100, 160], [120, 121, 122, 123], ""),
    ],
)
def test_a_cost_is_called_changed_only_beyond_the_noise_of_its_own_run(
    base: list[float], patched: list[float], called: str
) -> None:
    def outcomes(quantity: str, samples: list[float]) -> list[Outcome]:
        return [
            Outcome("t", Verdict.PASS, machine="m", provenance={measured(quantity): str(sample)})
            for sample in samples
        ]

    for quantity, opposite in (("accesses", False), ("interrupts per second", True)):
        (cost,) = compare_costs(outcomes(quantity, base), outcomes(quantity, patched))
        assert cost.changed == bool(called)
        assert not called or cost.worse == ((called == "worse") is not opposite)
