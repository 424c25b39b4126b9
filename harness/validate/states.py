"""What a validation compares: the base, and the states of the patched tree on top of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.build.kernel import KernelRecipe, TreeSource
from harness.build.tree import Trees, TreeState
from harness.errors import ConfigError
from harness.validate.trial import Subject
from harness.validate.validation import Candidate


@dataclass(frozen=True, slots=True)
class States:
    """A base and what is held against it."""

    base: Subject
    candidates: tuple[Candidate, ...]
    """The last one is the whole patched tree."""
    series: tuple[str, ...]
    """The subjects of the patches on the base."""


def read_states(trees: Trees, recipe: KernelRecipe, base: str | None, *, per_patch: bool) -> States:
    """Return what is compared; patches are applied, and nothing is built.

    :param recipe: the tree with its series, or without one: then what it has on top of ``base``.
    :param base: a commit of the tree; None: for a series that the tree's branch has already, the
        commit before it, else the tree as it is, which the series goes on top of.
    :raises ConfigError: there is no such tree, commit or series, or nothing to compare.
    :raises PatchDoesNotApply: a patch of the series does not.
    """
    patched = recipe.tree
    assert patched is not None
    if patched.series:
        if patched.revision:
            raise ConfigError(
                "--rev names what is compared, and here that is the series on top of the base",
                hint="name the base with --base",
            )
        base = base or trees.base_in_branch(patched)
        patched = replace(patched, revision=base)
        first, *states = trees.states(patched)
    elif base is None:
        raise ConfigError("nothing to compare with", hint="give --base REV, or --series, or both")
    else:
        (first,) = trees.states(replace(patched, revision=base))
        (last,) = trees.states(patched)
        on_the_way = _on_the_way(trees, patched, base) if per_patch else []
        states = [*(state for state in on_the_way if state.content != last.content), last]
    if states[-1].content == first.content:
        raise ConfigError("the base and the patched tree are the same, file by file")

    def subject(source: TreeSource, state: TreeState) -> Subject:
        return Subject(recipe=replace(recipe, tree=source), state=state)

    unpatched = replace(patched, revision=base, series=())
    candidates = [
        Candidate(
            name=f"patch-{number}" if number < len(states) else "patched",
            title=_title(state, number, len(states)),
            subject=subject(patched, state),
        )
        for number, state in enumerate(states, start=1)
    ]
    return States(
        base=subject(unpatched, first),
        candidates=tuple(candidates if per_patch else candidates[-1:]),
        series=tuple(_subject(state) for state in states) if patched.series or per_patch else (),
    )


def changed_paths(trees: Trees, recipe: KernelRecipe, states: States) -> list[str]:
    """Return the files that differ between the base and the whole patched tree."""
    assert recipe.tree is not None
    pair = [item.state for item in (states.base, states.candidates[-1].subject)]
    with trees.opened(recipe.tree) as checkout:
        commits = [state.commit for state in pair if state]
        return checkout.repository("diff", "--name-only", "--no-renames", *commits).splitlines()


def _on_the_way(trees: Trees, patched: TreeSource, base: str) -> Sequence[TreeState]:
    """Return the states after each commit from the base up to the patched tree."""
    commits = f"{base}..{patched.revision or 'HEAD'}"
    try:
        return trees.states(replace(patched, revision=base, series=(commits,)))[1:]
    except ConfigError:
        return []  # no commit, only what is not committed


def _title(state: TreeState, number: int, of: int) -> str:
    return f"patch {number} of {of}: {_subject(state)}" if of > 1 else _subject(state)


def _subject(state: TreeState) -> str:
    return state.log.partition("\n")[0] or state.version
