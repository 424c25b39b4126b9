"""The guest module's header and harness/spec/hypercall.py say the same, number by number."""

from __future__ import annotations

import re

import pytest

from harness.host.resources import resource
from harness.spec import hypercall as regs
from harness.spec.hypercall import (
    CallAnswer,
    CallRequest,
    CallStatus,
    EntryAnswer,
    EntryFlag,
    EntryRequest,
    Feature,
    HandleState,
    Operation,
    Status,
)
from harness.spec.interrupt import Store

HEADER = resource("guests/module/virte_regs.h").read_text()
SIZES = {"u8": 1, "__le16": 2, "__le32": 4, "__le64": 8}


def numbers() -> dict[str, int]:
    """Return every number that the header defines, without the prefix."""
    found = re.findall(r"^#define +VIRTE_(\w+)[ \t]+(\S+)$", HEADER, re.MULTILINE)
    bit = re.compile(r"BIT\((\d+)\)")
    return {
        name: 1 << int(match[1]) if (match := bit.fullmatch(text)) else int(text, 0)
        for name, text in found
    }


def expected(name: str) -> int:
    for prefix, names in (
        ("OPERATION_", Operation),
        ("STATUS_", CallStatus),
        ("STORE_", Store),
        ("FEATURE_", Feature),
        ("ENTRY_", EntryFlag),
        ("STATE_", HandleState),
    ):
        if name.startswith(prefix):
            return int(names[name.removeprefix(prefix)])
    if name.startswith("NOTICE_"):
        return Status(**{name.removeprefix("NOTICE_").lower(): True}).value
    if name in regs.Register.__members__ and name != "FRAMES":
        return int(regs.Register[name])
    return int(getattr(regs, name))


def test_every_number_of_the_header_is_the_specifications() -> None:
    found = numbers()
    assert len(found) > 30
    assert found == {name: expected(name) for name in found}


def test_every_status_has_a_number_in_the_header() -> None:
    assert {f"STATUS_{status.name}" for status in CallStatus} <= set(numbers())


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("virte_call_request", CallRequest),
        ("virte_call_answer", CallAnswer),
        ("virte_entry_request", EntryRequest),
        ("virte_entry_answer", EntryAnswer),
    ],
)
def test_structures_have_the_same_fields_of_the_same_sizes(name: str, layout: type) -> None:
    body = re.search(rf"^struct {name} {{\n(.*?)^}};", HEADER, re.MULTILINE | re.DOTALL)
    assert body is not None
    fields = re.findall(r"^\t(\w+) (\w+)(?:\[(\d+)\])?;$", body[1], re.MULTILINE)
    sizes = [SIZES[kind] * int(count or 1) for kind, _, count in fields]
    assert sum(sizes) == layout.SIZE  # type: ignore[attr-defined]
    named = [field for _, field, _ in fields]
    declared = list(layout.__slots__)  # type: ignore[attr-defined]
    assert named[: len(declared)] == declared
    offsets = {field: sum(sizes[:at]) for at, field in enumerate(named)}
    for number, field in enumerate(declared):
        if field == "reserved":
            continue
        values = {one: 0 for one in declared if one != "reserved"}
        values[field] = 1
        assert layout(**values).pack()[offsets[field]] == 1, (number, field)
