"""Patch series, by real git: read from every kind of place, applied, and refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build.checkout import Checkout, open_checkout
from harness.build.series import PatchDoesNotApply, Series, apply_series, read_series, split_mails
from harness.errors import ConfigError
from tests.unit.small_tree import FILE, change, commit, git, make_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree whose last two commits are a series."""
    tree = make_tree(tmp_path / "linux")
    commit(tree, "base")
    change(tree, "two", "2")
    commit(tree, "irq: the first\n\nWhy: häufig.")
    change(tree, "five", "5")
    commit(tree, "irq: the second")
    return tree


@pytest.fixture
def checkout(tree: Path) -> Checkout:
    return open_checkout(tree, tree.parent / "kept")


def format_patch(tree: Path, *words: str) -> str:
    return git(tree, "format-patch", *words, "HEAD~2..HEAD")


def as_mbox(tree: Path) -> Path:
    file = tree.parent / "series.mbox"
    file.write_text(format_patch(tree, "--stdout", "--cover-letter", "--base=HEAD~2") + "\n")
    return file


def as_directory(tree: Path) -> Path:
    format_patch(tree, f"--output-directory={tree.parent / 'patches'}")
    return tree.parent / "patches"


def as_quilt(tree: Path) -> Path:
    directory = as_directory(tree)
    for number, file in enumerate(sorted(directory.iterdir())):
        file.rename(directory / f"{9 - number}.patch")
    (directory / "series").write_text("# in this order\n9.patch\n8.patch # the second\n")
    return directory


def as_range(_tree: Path) -> str:
    return "HEAD~2..HEAD"


@pytest.mark.parametrize("place", [as_mbox, as_directory, as_quilt, as_range])
def test_a_series_is_the_same_wherever_it_is_read_from(
    tree: Path, checkout: Checkout, place: object
) -> None:
    series = read_series(str(place(tree)), checkout.users)  # type: ignore[operator]
    assert [patch.subject for patch in series.patches] == ["irq: the first", "irq: the second"]
    assert series.paths == [FILE]
    base = git(tree, "rev-parse", "HEAD~2")
    first, second = apply_series(checkout.repository, base, series)
    show = checkout.repository
    assert show("show", f"{first}:{FILE}").splitlines()[1::3] == ["2", "five"]
    assert show("rev-parse", f"{second}^{{tree}}") == git(tree, "rev-parse", "HEAD^{tree}")
    assert apply_series(checkout.repository, base, series) == [first, second]
    assert "häufig" in show("log", "-1", "--format=%b", first)
    written = "--format=%an <%ae> %aI"
    assert show("log", "-1", written, first) == git(tree, "log", "-1", written, "HEAD~1")


def test_an_mbox_says_what_it_is_for(tree: Path) -> None:
    assert read_series(str(as_mbox(tree))).base == git(tree, "rev-parse", "HEAD~2")


def test_a_bare_diff_is_a_series_of_one(tree: Path, checkout: Checkout) -> None:
    file = tree.parent / "fix.diff"
    file.write_text(git(tree, "diff", "HEAD~1", "HEAD") + "\n")
    series = read_series(str(file))
    assert [patch.subject for patch in series.patches] == ["fix.diff"]
    (made,) = apply_series(checkout.repository, git(tree, "rev-parse", "HEAD~1"), series)
    assert checkout.repository("rev-parse", f"{made}^{{tree}}") == git(
        tree, "rev-parse", "HEAD^{tree}"
    )


def test_a_series_for_another_base_is_refused_by_its_patch_and_base(
    tree: Path, checkout: Checkout
) -> None:
    series = read_series(str(as_mbox(tree)))
    with pytest.raises(PatchDoesNotApply) as caught:
        apply_series(checkout.repository, git(tree, "rev-parse", "HEAD~1"), series)
    assert caught.value.number == 1
    assert "patch 1, 'irq: the first'" in caught.value.message
    assert FILE in str(caught.value.evidence)
    assert git(tree, "rev-parse", "HEAD~2") in str(caught.value.hint)


def test_mails_are_decoded() -> None:
    mail = (
        "From 0123 Mon Sep 17 00:00:00 2001\n"
        "Subject: =?utf-8?q?=5BPATCH_v2_1/2=5D_h=C3=A4?=\n ufig\n"
        "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n"
        "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a=3D1\n+a=3D2\n"
    )
    (patch,) = split_mails(mail, "here")
    assert patch.subject == "hä ufig"
    assert "-a=1\n+a=2\n" in patch.text


DIFF = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"


@pytest.mark.parametrize(
    ("head", "body", "author"),
    [
        ("From: Ä B <a@b>", "", "Ä B <a@b> 0"),
        ("From: =?utf-8?q?=C3=84=2C_B?= <a@b>", "", "Ä, B <a@b> 0"),
        ("From: Sender <s@t>", "From: Author <a@b>\n\n", "Author <a@b> 0"),
        ("From: a@b", "", "a@b <a@b> 0"),
        ('From: ", " <a@b>', "", "a@b <a@b> 0"),
        ("From: ., <a@b>", "", "imsh <imsh@localhost> 0"),
        ("From: A\0 B <a@b>\nDate: yesterday", "", "A B <a@b> 0"),
        ("From: A <a@b>\nDate: Thu, 1 Jan 1970 01:00:09 +0100", "", "A <a@b> 9"),
        ("From: A <a@b>\nDate: Mon, 1 Jan 1900 00:00:00 -0000", "", "A <a@b> 0"),
        ("From: nobody", "", "nobody <nobody> 0"),
        ("X: no sender", "", "imsh <imsh@localhost> 0"),
    ],
)
def test_a_patch_is_its_authors(
    tree: Path, checkout: Checkout, head: str, body: str, author: str
) -> None:
    (tree / "x").write_text("a\n")
    base = commit(tree, "a file")
    mail = f"{head}\nSubject: s\n\n{body}{DIFF}"
    (made,) = apply_series(checkout.repository, base, Series(tuple(split_mails(mail, "here"))))
    assert checkout.repository("log", "-1", "--format=%an <%ae> %at", made) == author


@pytest.mark.parametrize("text", ["", "Subject: [PATCH 0/1] cover\n\nhello\n"])
def test_what_has_no_patch_is_no_series(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.mbox"
    file.write_text(text)
    with pytest.raises(ConfigError, match="no patch in it"):
        read_series(str(file))


def test_a_series_that_is_nowhere_is_told(checkout: Checkout) -> None:
    with pytest.raises(ConfigError, match="there is no series 'nowhere'"):
        read_series("nowhere", checkout.users)
    with pytest.raises(ConfigError, match=r"no commits v9\.\.v10"):
        read_series("v9..v10", checkout.users)
