"""YAML files as trees of nodes that know their place.

The schema layer needs the line of every key for its messages, so this stops at PyYAML's nodes
and never makes plain dicts. What YAML allows but a reader of a recipe would stumble over is
refused here: several documents, duplicate keys, keys that are not text, anchors and aliases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from harness.errors import ConfigError

KINDS: Final = {
    "tag:yaml.org,2002:str": "text",
    "tag:yaml.org,2002:int": "a whole number",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:bool": "true or false",
    "tag:yaml.org,2002:null": "nothing",
    "tag:yaml.org,2002:timestamp": "a date",
    "tag:yaml.org,2002:seq": "a list",
    "tag:yaml.org,2002:map": "a mapping",
}
"""What the reader calls a node's type."""

Scalar = str | int | float | bool | None


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not used here", problem_mark=event.start_mark
            )
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


@dataclass(frozen=True, slots=True)
class Place:
    """A node of a YAML file, and the path of keys that leads to it."""

    file: str
    node: yaml.Node
    path: str = ""

    @property
    def line(self) -> int:
        """Line in the file, from 1."""
        return int(self.node.start_mark.line) + 1

    @property
    def kind(self) -> str:
        """What the reader calls the type of what stands here."""
        return KINDS.get(self.node.tag, self.node.tag)

    def error(self, problem: str, *, hint: str | None = None) -> ConfigError:
        """Return the error to raise about this place."""
        about = f"{self.path}: " if self.path else ""
        return ConfigError(f"{self.file}:{self.line}: {about}{problem}", hint=hint)

    def scalar(self) -> Scalar:
        """Return the value that stands here.

        :raises ConfigError: a list, a mapping, a date or a tagged value stands here.
        """
        if not isinstance(self.node, yaml.ScalarNode) or self.kind not in (
            "text", "a whole number", "a number", "true or false", "nothing",
        ):  # fmt: skip
            raise self.error(f"must be a single value, not {self.kind}")
        try:
            return yaml.SafeLoader("").construct_object(self.node)  # type: ignore[no-any-return]
        except ValueError as error:
            raise self.error(str(error)) from error

    def items(self) -> Iterator[tuple[str, Place]]:
        """Yield the keys of the mapping that stands here, in the file's order, with their values.

        :raises ConfigError: no mapping stands here, or a key is not text or stands twice.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"must be a mapping, not {self.kind}")
        lines: dict[str, int] = {}
        for key_node, value in self.node.value:
            place = Place(self.file, key_node, self.path)
            if not isinstance(key_node, yaml.ScalarNode) or place.kind != "text":
                raise place.error(f"a key must be text, not {place.kind}")
            key = key_node.value
            if key in lines:
                raise place.error(f"key {key!r} stands here again, first in line {lines[key]}")
            lines[key] = place.line
            yield key, Place(self.file, value, f"{self.path}.{key}".lstrip("."))

    def elements(self) -> Iterator[Place]:
        """Yield the elements of the list that stands here.

        :raises ConfigError: no list stands here.
        """
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error(f"must be a list, not {self.kind}")
        for index, value in enumerate(self.node.value):
            yield Place(self.file, value, f"{self.path}[{index}]")

    def data(self) -> object:
        """Return what stands here as plain data: dict, list and scalars.

        :raises ConfigError: as :meth:`scalar` and :meth:`items`.
        """
        if isinstance(self.node, yaml.MappingNode):
            return {key: value.data() for key, value in self.items()}
        if isinstance(self.node, yaml.SequenceNode):
            return [element.data() for element in self.elements()]
        return self.scalar()

    def at(self, path: Sequence[str | int]) -> list[Place]:
        """Return this place and those that a path leads to, as far as there are any."""
        places = [self]
        for step in path:
            node = places[-1].node
            if isinstance(node, yaml.MappingNode):
                inner: dict[Any, Place] = dict(places[-1].items())
            elif isinstance(node, yaml.SequenceNode):
                inner = dict(enumerate(places[-1].elements()))
            else:
                break
            if step not in inner:
                break
            places.append(inner[step])
        return places


def parse(text: str, file: str) -> Place:
    """Return the one document in ``text``; ``file`` is named in messages.

    :raises ConfigError: it is not YAML, is empty, or uses what recipes do not use.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{line}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML: {error}") from error
    if node is None:
        raise ConfigError(f"{file}:1: the file is empty")
    return Place(file, node)


def read(path: Path) -> Place:
    """Return the one document in a file.

    :raises ConfigError: as :func:`parse`; also for a file that cannot be read or is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from error
    return parse(text, str(path))
