"""YAML into frozen dataclasses, by their field annotations.

A dataclass is its own schema: the fields are the keys, the annotations are the types, a default
makes a key optional, and ``__post_init__`` may refuse a combination with ``ValueError``. Supported
annotations: str, int, float, bool, None, Literal, Enum (by value), dataclass, ``X | Y``,
``tuple[X, ...]``, ``list[X]`` and ``dict[str, X]``. Nothing is converted: ``6.1`` is a number, and
text that looks like one is quoted.

A class with a field ``name`` gets the file's name (without ``.yaml``) in it, stated or not.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Union, cast

from harness.config.yaml_source import Place, parse, read
from harness.errors import ConfigError
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
    fixed = {}
    if any(field.name == "name" for field in dataclasses.fields(cast(Any, cls))):
        fixed["name"] = stem
    return cast(T, _dataclass(place, cls, fixed))


def _dataclass(place: Place, cls: Any, fixed: Mapping[str, Any]) -> object:
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    values = dict(fixed)
    for key, value in place.items():
        if key not in fields:
            raise value.error("unknown key", hint=allowed(key, fields.keys() - fixed.keys()))
        if key in fixed and value.scalar() != fixed[key]:
            raise value.error(f"must be the file's name, {fixed[key]!r}")
        values[key] = _value(value, hints[key])
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        wanted = ", ".join(f"{name} ({_describe(hints[name])})" for name in missing)
        raise place.error(f"missing: {wanted}")
    try:
        return cls(**values)
    except ValueError as error:
        raise place.error(str(error)) from error


def _value(place: Place, hint: Any) -> object:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _dataclass(place, hint, {})
    if origin in (Union, types.UnionType):
        return _union(place, hint, arguments)
    if origin in (tuple, list, Sequence):
        if origin is tuple and arguments[1:] != (...,):
            raise TypeError(f"tuples of fixed length are not supported: {hint}")
        elements = [_value(element, arguments[0]) for element in place.elements()]
        return elements if origin is list else tuple(elements)
    if origin in (dict, Mapping):
        return {key: _value(value, arguments[1]) for key, value in place.items()}
    value = place.scalar()
    if origin is Literal:
        choices = {str(choice): choice for choice in arguments}
        # True == 1: compare the types too.
        if any(type(value) is type(choice) and value == choice for choice in arguments):
            return value
        raise place.error(f"{value!r} is not allowed", hint=allowed(str(value), choices))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        members = {str(member.value): member for member in hint}
        if str(value) in members:
            return members[str(value)]
        raise place.error(f"{value!r} is not allowed", hint=allowed(str(value), members))
    if hint not in _SCALARS:
        raise TypeError(f"the annotation {hint} is not supported")
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        quote = f": write '{place.node.value}'" if hint is str and value is not None else ""
        raise place.error(f"must be {_SCALARS[hint]}, not {place.kind}{quote}")
    return value


def _union(place: Place, hint: Any, members: Sequence[Any]) -> object:
    """Return the value as the one member that takes it, the first in the annotation's order."""
    errors = []
    for member in members:
        try:
            return _value(place, member)
        except ConfigError as error:
            errors.append(error)
    # X | None: what is wrong with X is the better message.
    real = [
        error for error, member in zip(errors, members, strict=True) if member is not type(None)
    ]
    if len(real) == 1:
        raise real[0]
    raise place.error(f"must be {_describe(hint)}, not {place.kind}")


def _describe(hint: Any) -> str:
    """Return what the reader calls an annotation."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return "a mapping"
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(argument) for argument in arguments)
    if origin in (tuple, list, Sequence):
        return f"a list of {_describe(arguments[0])}"
    if origin in (dict, Mapping):
        return "a mapping"
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    return _SCALARS.get(hint, str(hint))
