"""Plain data, as JSON and YAML have it, into frozen dataclasses: the one way, by pydantic.

A dataclass is its own schema: the fields are the members, the annotations their types, a default
makes a member optional, and ``__post_init__`` may refuse a combination with ``ValueError``.
Lists become tuples where a tuple is declared, and text a member of an enumeration by its value.
Nothing else is converted: text is no number, 1 is not true.

pydantic is imported at the first use, because half of the commands never come here and its import
would cost each of them a tenth of a second.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import GetCoreSchemaHandler, TypeAdapter
    from pydantic_core import CoreSchema

T = TypeVar("T")

SHOWN: Final = 3
"""How many faults a message spells out: a hostile guest could make thousands."""


class Kind(enum.Enum):
    """What is wrong at a place."""

    UNKNOWN = enum.auto()
    """A member that the dataclass does not have; the path ends with its name."""
    MISSING = enum.auto()
    """A member without default is not there; the path ends with its name."""
    CHOICE = enum.auto()
    """Not one of the values that an enumeration or a Literal has."""
    REFUSED = enum.auto()
    """The dataclass itself refuses what it was given."""
    TYPE = enum.auto()
    """Of another type."""


_KINDS: Final = {
    "unexpected_keyword_argument": Kind.UNKNOWN,
    "missing": Kind.MISSING,
    "enum": Kind.CHOICE,
    "literal_error": Kind.CHOICE,
    "value_error": Kind.REFUSED,
}
"""By pydantic's names of errors; the rest are about types."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with the data."""

    kind: Kind
    path: tuple[str | int, ...]
    """Members and indices that lead to it. Where several types are allowed the rest of the path,
    from there on, begins with the type that was tried."""
    problem: str

    def __str__(self) -> str:
        where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path)
        return f"{where.lstrip('.')}: {self.problem}" if where else self.problem


class Misfit(ValueError):
    """The data is not what the dataclass describes."""

    def __init__(self, faults: Iterable[Fault]):
        self.faults = tuple(faults)
        more = len(self.faults) - SHOWN
        told = [*map(str, self.faults[:SHOWN]), *([f"and {more} more"] if more > 0 else [])]
        super().__init__("; ".join(told))


def convert(cls: type[T], data: object, *, closed: bool = False) -> T:
    """Return the ``cls`` that plain data (what ``json.loads`` returns) describes.

    :param cls: a dataclass, or a generic of one: ``tuple[Interrupt, ...]``.
    :param closed: whether a member that no field names is a fault; else it is ignored.
    :raises Misfit: it describes none; has every fault.
    """
    # Over the text, because JSON is what "strict" is defined for: in Python's terms a list is no
    # tuple, and a dict no dataclass.
    return from_json(cls, json.dumps(data), closed=closed)


def from_json(cls: type[T], text: str, *, closed: bool = False) -> T:
    """Return the ``cls`` that a JSON text describes; otherwise as :func:`convert`.

    :raises Misfit: as :func:`convert`; also when the text is not JSON.
    """
    from pydantic import ValidationError

    kind: Any = cls  # to mypy a type[T] is not hashable
    adapter: TypeAdapter[T] = _adapter(kind)
    try:
        return adapter.validate_json(text, strict=True, extra="forbid" if closed else "ignore")
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        raise Misfit(map(_fault, details)) from error


def to_json(value: DataclassInstance, *, indent: int | None = None) -> str:
    """Return a dataclass as a JSON text that :func:`from_json` reads, one line without ``indent``.

    Bytes of a file name or a command line that are no text (lone surrogates in Python), which no
    JSON text can hold, become ``?``.
    """
    text = json.dumps(dataclasses.asdict(value), ensure_ascii=False, indent=indent)
    return text.encode(errors="replace").decode()


class ByName:
    """Marks an enumeration whose members stand in the data by name, in lower case.

    As in ``store: Annotated[Store, ByName()]``.
    """

    def __get_pydantic_core_schema__(
        self, source: type[enum.Enum], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from pydantic_core import core_schema

        members = {member.name.lower(): member for member in source}
        return core_schema.no_info_after_validator_function(
            members.__getitem__, core_schema.literal_schema(list(members))
        )


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _fault(detail: Any) -> Fault:
    """Return the fault that one of pydantic's error details tells."""
    refusal = detail.get("ctx", {}).get("error")  # the ValueError of a __post_init__
    return Fault(
        _KINDS.get(detail["type"], Kind.TYPE),
        detail["loc"],
        detail["msg"] if refusal is None else str(refusal),
    )
