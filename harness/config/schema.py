"""YAML files into frozen dataclasses, with errors that name file, line and key.

:mod:`harness.schema.convert` does the conversion; here its faults find their place in the file and
words for whoever wrote it. ``6.1`` is a number: text that looks like one is quoted. Such a message
knows annotations made of str, int, float, bool, None, Literal, Enum, dataclass, ``X | Y``,
``tuple[X, ...]``, ``list[X]`` and ``dict[str, X]``.

A class with a field ``name`` gets the file's name (without ``.yaml``) in it, stated or not.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Union, cast

import yaml

from harness.config.yaml_source import Place, parse, read
from harness.errors import ConfigError
from harness.schema.convert import Fault, Kind, Misfit, convert
from harness.schema.names import allowed

T = TypeVar("T")

SUFFIX: Final = ".yaml"

_SCALARS: Final[dict[Any, str]] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "nothing",
}

_UNIONS: Final = (Union, types.UnionType)


def load(path: Path, cls: type[T]) -> T:
    """Return the ``cls`` that a file describes.

    :raises ConfigError: names file, line and key, and what is allowed there.
    """
    return _document(read(path), cls, path.stem)


def loads(text: str, cls: type[T], *, file: str = "<text>") -> T:
    """Return the ``cls`` that ``text`` describes; ``file`` is named in messages.

    :raises ConfigError: as :func:`load`.
    """
    return _document(parse(text, file), cls, Path(file).stem)


def load_directory(directory: Path, cls: type[T]) -> dict[str, T]:
    """Return what each ``*.yaml`` of a directory describes, by file name without suffix, sorted.

    :raises ConfigError: as :func:`load`; also for a directory that does not exist.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no such directory")
    return {path.stem: load(path, cls) for path in sorted(directory.glob(f"*{SUFFIX}"))}


def _document(place: Place, cls: type[T], stem: str) -> T:
    data = place.data()
    if not isinstance(data, dict):
        raise place.error(f"must be a mapping, not {place.kind}")
    named = any(field.name == "name" for field in dataclasses.fields(cast(Any, cls)))
    if named and data.setdefault("name", stem) != stem:
        raise place.at(["name"])[-1].error(f"must be the file's name, {stem!r}")
    try:
        return convert(cls, data, closed=True)
    except Misfit as misfit:
        # A misspelt key is also one that is missing: the former says more.
        first = min(
            misfit.faults,
            key=lambda fault: (fault.kind is Kind.MISSING, place.at(fault.path)[-1].line),
        )
        raise _error(place, cls, first, misfit.faults) from misfit


def _error(root: Place, cls: Any, fault: Fault, faults: Sequence[Fault]) -> ConfigError:
    """Return what a fault is to the reader of a file.

    :param faults: all: keys that are missing in one place are told together.
    """
    places = root.at(fault.path)
    hints = [cls]
    for step in fault.path[: len(places) - 1]:
        hints.append(_inner(hints[-1], step))
    place, hint = places[-1], _single(hints[-1])
    scalar = isinstance(place.node, yaml.ScalarNode)
    match fault.kind:
        case Kind.REFUSED:
            return place.error(fault.problem)
        case Kind.UNKNOWN:
            known = {field.name for field in dataclasses.fields(_single(hints[-2]))}
            # A file's own name is nothing to be stated.
            return place.error(
                "unknown key",
                hint=allowed(
                    str(fault.path[-1]), known - ({"name"} if len(places) == 2 else set())
                ),
            )
        case Kind.MISSING:
            *parent, _ = fault.path
            names = [str(each.path[-1]) for each in faults
                     if each.kind is Kind.MISSING and [*each.path[:-1]] == parent]  # fmt: skip
            wanted = ", ".join(f"{name} ({_describe(_inner(hint, name))})" for name in names)
            return place.error(f"missing: {wanted}")
        case Kind.CHOICE if scalar:
            value = place.scalar()
            return place.error(
                f"{value!r} is not allowed", hint=allowed(str(value), _choices(hint))
            )
    if typing.get_origin(hint) in (tuple, list):
        return place.error(f"must be a list, not {place.kind}")
    if dataclasses.is_dataclass(hint) or typing.get_origin(hint) is dict:
        return place.error(f"must be a mapping, not {place.kind}")
    if not scalar and typing.get_origin(hint) not in _UNIONS:
        return place.error(f"must be a single value, not {place.kind}")
    quote = f": write '{place.node.value}'" if hint is str and place.kind != "nothing" else ""
    return place.error(f"must be {_describe(hint)}, not {place.kind}{quote}")


def _inner(hint: Any, step: str | int) -> Any:
    """Return the annotation of what stands at a key or an index of what ``hint`` is of."""
    hint = _single(hint)
    if dataclasses.is_dataclass(hint):
        return typing.get_type_hints(hint).get(str(step))
    return typing.get_args(hint)[0 if isinstance(step, int) else 1]


def _single(hint: Any) -> Any:
    """Return X for ``X | None``: what is wrong with X is the better message."""
    if typing.get_origin(hint) not in _UNIONS:
        return hint
    members = [member for member in typing.get_args(hint) if member is not type(None)]
    return members[0] if len(members) == 1 else hint


def _choices(hint: Any) -> list[str]:
    if typing.get_origin(hint) is Literal:
        return [str(choice) for choice in typing.get_args(hint)]
    return [str(member.value) for member in hint]


def _describe(hint: Any) -> str:
    """Return what the reader calls an annotation."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) or origin is dict:
        return "a mapping"
    if origin in _UNIONS:
        return " or ".join(_describe(argument) for argument in arguments)
    if origin in (tuple, list):
        return f"a list of {_describe(arguments[0])}"
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    return _SCALARS.get(hint, str(hint))
