"""Our checkout of a tree: what counts, what is left alone, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.build.checkout import Checkout, makefile_version, open_checkout
from harness.errors import BuildError, ConfigError
from harness.host.deadline import Deadline, wait_until
from tests.unit.small_tree import FILE, MAKEFILE, change, commit, git, make_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = make_tree(tmp_path / "linux")
    commit(tree, "first")
    return tree


def opened(tree: Path) -> Checkout:
    return open_checkout(tree, tree.parent / "kept")


def content(checkout: Checkout, commit: str) -> str:
    return checkout.repository("show", f"{commit}:{FILE}")


def test_a_clean_tree_is_its_own_commit(tree: Path) -> None:
    assert opened(tree).commit_of() == git(tree, "rev-parse", "HEAD")


def test_what_is_not_committed_counts_and_the_users_repository_stays(tree: Path) -> None:
    change(tree, "two", "2")
    (tree / "kernel/new.c").write_text("new\n")
    before = git(tree, "status", "--porcelain"), git(tree, "rev-list", "--all", "--objects")
    checkout = opened(tree)
    found = checkout.commit_of()
    assert content(checkout, found).splitlines()[1] == "2"
    assert checkout.repository("show", f"{found}:kernel/new.c") == "new"
    assert found == checkout.commit_of()
    assert (git(tree, "status", "--porcelain"), git(tree, "rev-list", "--all", "--objects")) == (
        before
    )
    assert checkout.describe().endswith(", changed")


def test_what_git_ignores_does_not_count(tree: Path) -> None:
    (tree / ".gitignore").write_text("*.o\n")
    commit(tree, "ignore")
    (tree / "kernel/irq/msi.o").write_text("object")
    assert opened(tree).commit_of() == git(tree, "rev-parse", "HEAD")


@pytest.mark.parametrize("repository", [True, False], ids=["git", "no git"])
def test_results_of_ours_in_the_tree_make_it_no_other(tmp_path: Path, repository: bool) -> None:
    tree = make_tree(tmp_path / "linux")
    if repository:
        commit(tree, "first")
    checkout = opened(tree)
    before = checkout.repository("rev-parse", f"{checkout.commit_of()}^{{tree}}")
    for name in ("build/validations/1/series.mbox", "tools/build/Makefile"):
        (tree / name).parent.mkdir(parents=True)
        (tree / name).write_text("new\n")
    found = checkout.commit_of()
    changed = checkout.repository("diff", "--name-only", before, found)
    assert changed == "tools/build/Makefile"


def test_an_edit_is_taken_back_with_it(tree: Path) -> None:
    checkout = opened(tree)
    change(tree, "two", "2")
    changed = checkout.commit_of()
    change(tree, "2", "two")
    assert checkout.commit_of() == git(tree, "rev-parse", "HEAD") != changed


def test_a_tree_without_git_works(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "linux")
    checkout = opened(tree)
    found = checkout.commit_of()
    assert checkout.describe() == "6.12.107-rc1"
    checkout.show(found)
    assert (checkout.source / FILE).read_text() == (tree / FILE).read_text()
    with pytest.raises(ConfigError, match="no git repository"):
        checkout.commit_of("v6.12")


def test_in_a_tree_without_git_all_counts_but_what_a_build_left(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "linux")
    (tree / ".gitignore").write_text("/*\n")  # as the packaged sources have it
    for name in (".config", "kernel/irq/msi.o", "include/generated/autoconf.h", "vmlinux.o"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("built")
    checkout = opened(tree)
    checkout.show(checkout.commit_of())
    assert (checkout.source / FILE).exists()
    assert not [path for path in checkout.source.rglob("*") if path.is_file()
                and path.read_text() == "built"]  # fmt: skip


def test_only_files_that_differ_are_touched(tree: Path) -> None:
    checkout = opened(tree)
    checkout.show(checkout.commit_of())
    before = (checkout.source / "Kconfig").stat(), (checkout.source / FILE).stat()
    change(tree, "two", "2")
    (tree / "kernel/new.c").write_text("new\n")
    checkout.show(checkout.commit_of())
    assert (checkout.source / "Kconfig").stat().st_ctime_ns == before[0].st_ctime_ns
    assert (checkout.source / FILE).stat().st_ctime_ns != before[1].st_ctime_ns
    checkout.show(git(tree, "rev-parse", "HEAD"))
    assert not (checkout.source / "kernel/new.c").exists()


def test_a_file_that_a_kernel_in_the_cache_links_stays_untouched(tree: Path) -> None:
    checkout = opened(tree)
    checkout.show(checkout.commit_of())
    linked = checkout.source / "scripts/x"
    before = linked.stat()
    kept = checkout.directory / "kept"

    def linked_in_a_later_second() -> bool:  # git does not look more closely
        kept.unlink(missing_ok=True)
        kept.hardlink_to(linked)
        return int(linked.stat().st_ctime) > int(before.st_ctime)

    wait_until(linked_in_a_later_second, Deadline(5, "the next second"))
    change(tree, "two", "2")
    checkout.show(checkout.commit_of())
    after = linked.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_checkout_that_was_killed_is_put_right(tree: Path) -> None:
    checkout = opened(tree)
    head = checkout.commit_of()
    checkout.show(head)
    (checkout.source / FILE).write_text("half")
    (checkout.directory / "source.index.lock").touch()
    checkout.show(head)
    assert (checkout.source / FILE).read_text() == (tree / FILE).read_text()


def test_another_revision_is_a_commit_of_the_users(tree: Path) -> None:
    first = git(tree, "rev-parse", "HEAD")
    change(tree, "two", "2")
    commit(tree, "second")
    assert opened(tree).commit_of("HEAD~1") == first
    with pytest.raises(ConfigError, match="has no revision 'v9'"):
        opened(tree).commit_of("v9")


def test_a_merge_under_way_is_refused_with_its_file(tree: Path) -> None:
    git(tree, "checkout", "--quiet", "-b", "other")
    change(tree, "two", "2")
    commit(tree, "theirs")
    git(tree, "checkout", "--quiet", "-")
    change(tree, "two", "zwei")
    commit(tree, "ours")
    with pytest.raises(Exception, match="merge"):
        git(tree, "merge", "other")
    with pytest.raises(ConfigError, match=f"a merge is under way, {FILE}") as caught:
        opened(tree).commit_of()
    assert "git merge --abort" in str(caught.value.hint)


@pytest.mark.parametrize("missing", ["Makefile", "Kconfig", "scripts", "kernel"])
def test_what_is_no_tree_is_refused_by_what_it_lacks(tree: Path, missing: str) -> None:
    path = tree / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ConfigError, match=f"no Linux kernel tree: it has no {missing}"):
        opened(tree)


def test_a_tree_of_another_architecture_is_told(tree: Path) -> None:
    shutil.rmtree(tree / "arch/x86")
    (tree / "arch/arm64").mkdir()
    with pytest.raises(ConfigError, match="without arch/x86"):
        opened(tree)
    with pytest.raises(ConfigError, match="there is no directory"):
        opened(tree / "nowhere")


def test_a_damaged_repository_is_told(tree: Path) -> None:
    (tree / ".git/HEAD").write_text("nonsense")
    with pytest.raises(BuildError, match="git does not take this repository"):
        opened(tree)


def test_a_tree_that_lies_in_another_repository_is_not_of_it(tree: Path) -> None:
    inner = make_tree(tree / "unpacked")
    assert open_checkout(inner, tree.parent / "kept").users is None


def test_a_hook_that_starts_us_does_not_mislead_us(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere")
    assert len(opened(tree).commit_of()) == 40


def test_the_version_of_a_makefile() -> None:
    assert makefile_version(MAKEFILE) == "6.12.107-rc1"
    assert makefile_version("VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL =\nEXTRAVERSION =\n") == "7.3.0"
