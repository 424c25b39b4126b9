"""The strict YAML loader: what it takes, and what each refusal says."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from harness.config.schema import load, load_directory, loads
from harness.errors import ConfigError


class Mode(enum.StrEnum):
    XAPIC = "xapic"
    X2APIC = "x2apic"


@dataclass(frozen=True, slots=True)
class Disk:
    size_mib: int
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    name: str
    memory_mib: int
    ratio: float = 1.0
    remapping: bool = True
    mode: Mode = Mode.X2APIC
    accelerator: Literal["tcg", "kvm"] = "tcg"
    arguments: tuple[str, ...] = ()
    disks: list[Disk] = field(default_factory=list)
    variables: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.memory_mib < 16:
            raise ValueError("memory_mib below 16 boots nothing")


VALID = """\
memory_mib: 256
ratio: 2
mode: xapic
accelerator: kvm
arguments: [quiet, panic=-1]
disks:
  - size_mib: 8
    label: '6.1'
variables: {a: 1}
"""


def test_a_valid_file_becomes_the_dataclass() -> None:
    assert loads(VALID, Spec, file="caching.yaml") == Spec(
        name="caching",
        memory_mib=256,
        ratio=2.0,
        mode=Mode.XAPIC,
        accelerator="kvm",
        arguments=("quiet", "panic=-1"),
        disks=[Disk(8, "6.1")],
        variables={"a": 1},
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            ("ratio: 2", "ration: 2"), "x.yaml:2: ration: unknown key\nhint: did you mean ratio? ",
            id="an unknown key, with the near one",
        ),
        pytest.param(
            ("ratio: 2", "memory_mib: 2"),
            "x.yaml:2: key 'memory_mib' stands here again, first in line 1", id="a duplicate key",
        ),
        pytest.param(
            ("memory_mib: 256\n", ""), "x.yaml:1: missing: memory_mib (a whole number)",
            id="a missing key, with its type",
        ),
        pytest.param(
            ("256", "'256'"), "x.yaml:1: memory_mib: must be a whole number, not text",
            id="text for a number",
        ),
        pytest.param(
            ("256", "true"), "x.yaml:1: memory_mib: must be a whole number, not true or false",
            id="a truth value for a number",
        ),
        pytest.param(
            ("256", "[1]"), "x.yaml:1: memory_mib: must be a single value, not a list",
            id="a list for a number",
        ),
        pytest.param(
            ("'6.1'", "6.1"), "x.yaml:8: disks[0].label: must be text, not a number: write '6.1'",
            id="a number for text, in a nested place",
        ),
        pytest.param(
            ("xapic", "xapik"),
            "x.yaml:3: mode: 'xapik' is not allowed\nhint: did you mean xapic? "
            "known: x2apic, xapic",
            id="an unknown member of an enumeration",
        ),
        pytest.param(
            ("kvm", "hvf"), "x.yaml:4: accelerator: 'hvf' is not allowed\nhint: known: kvm, tcg",
            id="an unknown literal",
        ),
        pytest.param(
            ("[quiet, panic=-1]", "quiet"), "x.yaml:5: arguments: must be a list, not text",
            id="text for a list",
        ),
        pytest.param(
            ("panic=-1", "5"), "x.yaml:5: arguments[1]: must be text, not a whole number",
            id="a wrong element",
        ),
        pytest.param(
            ("256", "8"), "x.yaml:1: memory_mib below 16 boots nothing",
            id="what the class itself refuses",
        ),
        pytest.param(
            ("ratio: 2", "name: other"), "x.yaml:2: name: must be the file's name, 'x'",
            id="a name other than the file's",
        ),
        pytest.param(
            ("ratio: 2", "1: 2"), "x.yaml:2: a key must be text, not a whole number",
            id="a key that is a number",
        ),
        pytest.param(
            ("[quiet", "[&a quiet"), "x.yaml:5: anchors and aliases are not used here",
            id="an anchor",
        ),
        pytest.param(("[quiet", "{quiet"), "x.yaml:5: ", id="broken syntax"),
        pytest.param(
            ("size_mib: 8", "size_mb: 8"),
            "x.yaml:7: disks[0].size_mb: unknown key\nhint: did you mean size_mib? "
            "known: label, size_mib",
            id="a misspelt key that is needed, in a nested place",
        ),
        pytest.param(
            ("  - size_mib: 8\n    label", "  - label"),
            "x.yaml:7: disks[0]: missing: size_mib (a whole number)",
            id="a missing key, in a nested place",
        ),
        pytest.param(
            ("{a: 1}", "{a: 1, b: one}"),
            "x.yaml:9: variables.b: must be a whole number, not text", id="a value of a mapping",
        ),
        pytest.param(
            ("{a: 1}", "[a]"), "x.yaml:9: variables: must be a mapping, not a list",
            id="a list for a mapping",
        ),
        pytest.param(
            ("- size_mib: 8\n    label: '6.1'", "- 8"),
            "x.yaml:7: disks[0]: must be a mapping, not a whole number",
            id="a number for an object",
        ),
        pytest.param(
            ("xapic", "[xapic]"), "x.yaml:3: mode: must be a single value, not a list",
            id="a list for a member of an enumeration",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_file_line_and_key(change: tuple[str, str], message: str) -> None:
    assert change[0] in VALID
    with pytest.raises(ConfigError) as caught:
        loads(VALID.replace(*change), Spec, file="x.yaml")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "text", ["", "# only a comment\n", "- a\n", "plain\n", "a: 1\n---\nb: 2\n"]
)
def test_a_file_that_is_no_single_mapping_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^x\.yaml"):
        loads(text, Spec, file="x.yaml")


def test_a_directory_is_loaded_by_file_names(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("memory_mib: 32")
    (tmp_path / "a.yaml").write_text("memory_mib: 64")
    (tmp_path / "README").write_text("not a recipe")
    loaded = load_directory(tmp_path, Spec)
    assert [(name, spec.name, spec.memory_mib) for name, spec in loaded.items()] == [
        ("a", "a", 64),
        ("b", "b", 32),
    ]


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "absent.yaml", Spec)
    (tmp_path / "latin.yaml").write_bytes(b"memory_mib: 1 # \xe9")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 16"):
        load(tmp_path / "latin.yaml", Spec)
    with pytest.raises(ConfigError, match="no such directory"):
        load_directory(tmp_path / "absent", Spec)
