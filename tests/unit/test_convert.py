"""Plain data into dataclasses: what fits, and where a misfit is said to be."""

from __future__ import annotations

import enum
import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from harness.schema.convert import ByName, Kind, Misfit, convert, from_json, to_json


class Store(enum.IntEnum):
    MSI = 1
    IMS = 3


class Mode(enum.StrEnum):
    XAPIC = "xapic"


@dataclass(frozen=True, slots=True)
class Vector:
    cpu: int
    store: Annotated[Store, ByName()] = Store.MSI

    def __post_init__(self) -> None:
        if self.cpu < 0:
            raise ValueError("there is no CPU below 0")


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    vectors: tuple[Vector, ...] = ()
    mode: Mode = Mode.XAPIC
    ready: bool = True
    share: float = 0.0
    note: str | None = None


VALID: dict[str, Any] = {
    "name": "a", "vectors": [{"cpu": 1, "store": "ims"}, {"cpu": 2}], "mode": "xapic",
    "ready": False, "share": 1, "note": None,
}  # fmt: skip


def test_data_that_fits_becomes_the_dataclass() -> None:
    device = convert(Device, VALID, closed=True)
    vectors = (Vector(1, Store.IMS), Vector(2))
    assert device == Device("a", vectors, Mode.XAPIC, ready=False, share=1.0)
    assert type(device.vectors[0].store) is Store
    assert from_json(tuple[Vector, ...], '[{"cpu": 7}]') == (Vector(7),)


@pytest.mark.parametrize(
    ("change", "kind", "path"),
    [
        ({"name": 1}, Kind.TYPE, ("name",)),
        ({"ready": 1}, Kind.TYPE, ("ready",)),
        ({"ready": "true"}, Kind.TYPE, ("ready",)),
        ({"share": "1"}, Kind.TYPE, ("share",)),
        ({"share": True}, Kind.TYPE, ("share",)),
        ({"vectors": {}}, Kind.TYPE, ("vectors",)),
        ({"vectors": [{"cpu": 1}, 2]}, Kind.TYPE, ("vectors", 1)),
        ({"vectors": [{"cpu": 1.0}]}, Kind.TYPE, ("vectors", 0, "cpu")),
        ({"vectors": [{"cpu": True}]}, Kind.TYPE, ("vectors", 0, "cpu")),
        ({"vectors": [{}]}, Kind.MISSING, ("vectors", 0, "cpu")),
        ({"vectors": [{"cpu": -1}]}, Kind.REFUSED, ("vectors", 0)),
        ({"vectors": [{"cpu": 1, "store": 3}]}, Kind.CHOICE, ("vectors", 0, "store")),
        ({"vectors": [{"cpu": 1, "store": "IMS"}]}, Kind.CHOICE, ("vectors", 0, "store")),
        ({"mode": "x2apic"}, Kind.CHOICE, ("mode",)),
        ({"vectors": [{"cpu": 1, "cpus": 1}]}, Kind.UNKNOWN, ("vectors", 0, "cpus")),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(
    change: dict[str, Any], kind: Kind, path: tuple[str | int, ...]
) -> None:
    with pytest.raises(Misfit) as caught:
        convert(Device, {**VALID, **change}, closed=True)
    (fault,) = caught.value.faults
    assert (fault.kind, fault.path) == (kind, path)


def test_a_message_tells_the_path_and_what_the_class_said() -> None:
    with pytest.raises(Misfit, match=r"^vectors\[0\]: there is no CPU below 0$"):
        convert(Device, {**VALID, "vectors": [{"cpu": -1}]})


def test_an_open_conversion_ignores_what_it_does_not_know() -> None:
    assert convert(Vector, {"cpu": 1, "new": {"deep": []}}) == Vector(1)


def test_thousands_of_faults_make_one_short_message() -> None:
    with pytest.raises(Misfit, match=r"and 1997 more$") as caught:
        convert(tuple[Vector, ...], [{}] * 2000)
    assert len(caught.value.faults) == 2000


@pytest.mark.parametrize("text", ["", "{", '{"cpu": 1} x', "[" * 100_000, '{"cpu": "\\ud800"}'])
def test_a_text_that_is_not_json_is_a_misfit(text: str) -> None:
    with pytest.raises(Misfit):
        from_json(Vector, text)


def test_what_is_written_is_read_again_whatever_bytes_a_name_has() -> None:
    name = b"t\xe4st\n\xf0\x9f\x90\xa7".decode(errors="surrogateescape")
    written = to_json(Device(name, note="\u2028\0é"))
    assert "\n" not in written
    assert from_json(Device, written) == Device("t?st\n\N{PENGUIN}", note="\u2028\0é")


def test_a_command_that_converts_nothing_does_not_wait_for_pydantic() -> None:
    modules = "harness.cli.main, harness.guest.facts, harness.config.recipes"
    program = f"import sys, {modules}; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
