# Ref: git-format-patch(1), git-apply(1); RFC 4155 (mbox)
"""Patch series: from an mbox, a directory or a range of commits to commits on top of a base.

Nothing of the user's is written: patches are applied in an index of ours, and the commits that they
make are objects of our own repository.
"""

from __future__ import annotations

import datetime
import email
import email.policy
import email.utils
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Final

from harness.build.git import Git
from harness.errors import BuildError, ConfigError

_SUFFIXES: Final = (".patch", ".diff", ".mbox", ".eml")
_DIFF: Final = re.compile(r"(?m)^(diff --git |--- \S+\n\+\+\+ )")
_NEWEST: Final = 500
"""Commits of a branch among which a series of its own is looked for."""
_FORMAT_PATCH: Final = (
    "format-patch", "--stdout", "--binary", "--full-index", "--no-signature", "--no-stat", "-1",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch of a series."""

    subject: str
    """As its mail has it, without "[PATCH 1/2]"; where it stands when it has none."""
    origin: str
    """Where it was read from, for messages."""
    text: str
    """Its description and the diff; bytes that are no UTF-8 are escaped (PEP 383)."""
    author: Mapping[str, str] = field(default_factory=dict)
    """Who wrote it and when, as far as it says: git's variables of a commit."""

    @property
    def message(self) -> str:
        """The message of the commit that it makes."""
        return f"{self.subject}\n\n{re.split(r'(?m)^---$|^diff --git ', self.text)[0].strip()}\n"


@dataclass(frozen=True, slots=True)
class Series:
    """Patches in their order."""

    patches: tuple[Patch, ...]
    base: str | None = None
    """The commit that the series itself says that it is for (its ``base-commit:`` line)."""

    @property
    def paths(self) -> list[str]:
        """The files that it changes, sorted."""
        lines = re.compile(r"(?m)^(?:\+\+\+|---) [ab]/(\S+)")
        return sorted({name for patch in self.patches for name in lines.findall(patch.text)})


class PatchDoesNotApply(BuildError):
    """A patch of a series does not fit the tree that it was put on."""

    def __init__(self, patch: Patch, number: int, *, hint: str, evidence: str | None):
        super().__init__(
            f"patch {number}, {patch.subject!r} ({patch.origin}), does not apply",
            hint=hint,
            evidence=evidence,
        )
        self.patch = patch
        self.number = number


def read_series(origin: str, users: Git | None = None) -> Series:
    """Return a series.

    :param origin: an mbox or a patch file, a directory of them, or a range of commits ("A..B").
    :param users: the repository that has the commits of a range.
    :raises ConfigError: there is no such series, or no patch in it.
    """
    path = Path(origin).expanduser()
    if path.is_dir():
        texts = [(_read(file), file.name) for file in _files_of(path)]
    elif path.is_file():
        texts = [(_read(path), path.name)]
    elif ".." in origin and users:
        texts = _range(users, origin)
    else:
        raise ConfigError(
            f"there is no series {origin!r}",
            hint="name an mbox, a directory of patches, or a range of the tree's commits (A..B)",
        )
    mails = [mail for text, where in texts for mail in split_mails(text, where)]
    base = next((found[1] for mail in mails if (found := _BASE.search(mail.text))), None)
    # Cover letters and replies change nothing.
    patches = tuple(mail for mail in mails if _DIFF.search(mail.text))
    if not patches:
        raise ConfigError(f"the series {origin} has no patch in it")
    return Series(patches, base)


_IN_BODY: Final = re.compile(r"\s*From: (.+)\n")
_UNFIT: Final = re.compile(r"[\x00-\x1f\x7f<>]")
_UNFIT_AT_ENDS: Final = " .,:;\"'\\"
"""What git does not have in a name, and what it does not have at its ends (git's ident.c)."""
_BASE: Final = re.compile(r"(?m)^base-commit: ([0-9a-f]{12,40})")


def split_mails(text: str, origin: str) -> list[Patch]:
    """Return what is in an mbox, in one mail, or in a file with a bare diff."""
    mails = [mail for mail in re.split(r"(?m)^From \S+ .*\d{4}\n", text) if mail.strip()]
    if len(mails) == 1:
        return [_parse(mails[0], origin)]
    return [_parse(mail, f"{origin}, mail {number}") for number, mail in enumerate(mails, start=1)]


def apply_series(git: Git, base: str, series: Series) -> list[str]:
    """Return the commits that the patches make on top of ``base``, one for each.

    The same patches on the same base are the same commits.

    :param base: a commit of ``git``, which gets the objects.
    :raises PatchDoesNotApply: names the first that does not.
    """
    commits = [base]
    with tempfile.TemporaryDirectory(prefix="imsh-") as directory:
        index = {"GIT_INDEX_FILE": f"{directory}/index"}
        git("read-tree", base, **index)
        for number, patch in enumerate(series.patches, start=1):
            file, message = Path(directory, "patch"), Path(directory, "message")
            file.write_text(patch.text, encoding="utf-8", errors="surrogateescape")
            message.write_text(patch.message, encoding="utf-8", errors="surrogateescape")
            try:
                git("apply", "--cached", "--whitespace=nowarn", str(file), **index)
            except BuildError as error:
                raise PatchDoesNotApply(
                    patch, number, hint=_base_hint(series), evidence=error.evidence
                ) from error
            tree = git("write-tree", **index)
            words = ("commit-tree", tree, "-p", commits[-1], "-F", str(message))
            commits.append(git(*words, **patch.author))
    return commits[1:]


def commit_before(git: Git, users: Git, series: Series) -> str | None:
    """Return the commit that a series is on top of in the user's branch; None: it is not there.

    Told by what the first patch makes of that commit: the very tree of the branch's next one.

    :param git: has the objects of ``users``, and gets those that patches make.
    """
    first = series.patches[0]
    said = users("log", f"--max-count={_NEWEST}", "--no-merges", "--format=%H %P %s")
    for commit, parent, subject in (line.split(" ", 2) for line in said.splitlines()):
        if parent and " ".join(subject.split()) == first.subject:
            try:
                (made,) = apply_series(git, parent, Series((first,)))
            except PatchDoesNotApply:
                continue
            if git("rev-parse", f"{made}^{{tree}}") == git("rev-parse", f"{commit}^{{tree}}"):
                return parent
    return None


def _base_hint(series: Series) -> str:
    if series.base:
        return f"the series says that it is for {series.base}: name that as the base"
    return "name the base that the series was made for"


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error


def _files_of(directory: Path) -> Sequence[Path]:
    """Return a directory's patches: in the order of quilt's ``series``, else of their names."""
    listed = directory / "series"
    if listed.is_file():
        lines = (line.partition("#")[0].split() for line in listed.read_text().splitlines())
        return [directory / words[0] for words in lines if words]
    return sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES)


def _range(users: Git, commits: str) -> list[tuple[str, str]]:
    """Return the mails that stand for the commits of a range; merges are left out."""
    try:
        names = users("rev-list", "--reverse", "--no-merges", commits).split()
    except BuildError as error:
        raise ConfigError(f"the tree has no commits {commits}", evidence=error.evidence) from error
    return [(users(*_FORMAT_PATCH, name) + "\n", f"commit {name[:12]}") for name in names]


def _parse(mail: str, origin: str) -> Patch:
    if _DIFF.match(mail):
        return Patch(origin, origin, mail)
    data = mail.encode("utf-8", errors="surrogateescape")
    message = email.message_from_bytes(data, policy=email.policy.default)
    part = message.get_body(("plain",)) or message
    body = part.get_payload(decode=True)
    text = body.decode("utf-8", errors="surrogateescape") if isinstance(body, bytes) else mail
    subject = re.sub(r"^\s*(\[[^]]*\]\s*)+", "", str(message["subject"] or "")).strip()
    text = text.replace("\r\n", "\n")
    return Patch(re.sub(r"\s+", " ", subject) or origin, origin, text, _author(message, text))


def _author(message: EmailMessage, text: str) -> dict[str, str]:
    """Return the author of a mail: the From line that its text begins with, else its sender."""
    sender = next((value for name, value in message.raw_items() if name.lower() == "from"), "")
    said = _IN_BODY.match(text)
    name, address = email.utils.parseaddr(said[1] if said else str(sender))
    name = str(email.policy.default.header_factory("subject", name))  # decodes
    name, address = (_UNFIT.sub("", words).strip(_UNFIT_AT_ENDS) for words in (name, address))
    if not address:
        return {}
    author = {"GIT_AUTHOR_NAME": name or address, "GIT_AUTHOR_EMAIL": address}
    try:
        sent = email.utils.parsedate_to_datetime(str(message["date"]))
    except ValueError:
        return author  # it has no date, or none that is one
    sent = sent if sent.tzinfo else sent.replace(tzinfo=datetime.UTC)
    seconds = max(0, int(sent.timestamp()))
    return author | {"GIT_AUTHOR_DATE": f"@{seconds} {sent:%z}"}
