"""The guest module's C header and harness/spec/ims_function.py say the same, number by number."""

from __future__ import annotations

import re
from enum import IntEnum

import pytest

from harness.host.resources import resource
from harness.spec import ims_function as regs
from harness.spec.bitfield import Layout
from harness.spec.interrupt import Store
from harness.spec.msi import MessageEntry, VectorControl

HEADER = resource("guests/module/imstest_regs.h")
PREFIX = "IMSTEST_"

# fmt: off
CONSTANTS = (
    "VENDOR_ID", "DEVICE_ID", "ID_VALUE", "VERSION_VALUE",
    "BAR_CONTROL", "BAR_MSIX", "BAR_IMS",
    "BAR_CONTROL_SIZE", "BAR_MSIX_SIZE", "BAR_IMS_SIZE",
    "MSIX_PBA_OFFSET", "MSI_MAX", "MSIX_MAX", "IMS_ENTRIES",
    "WQ_SIZE_MAX", "IMS_PENDING_SIZE", "EVENT_SLOT_SIZE",
)
# fmt: on
ENUMS: dict[str, type[IntEnum]] = {
    "": regs.Register,
    "STORE_": Store,
    "OPCODE_": regs.Opcode,
    "COMPLETION_": regs.CompletionStatus,
}
LAYOUTS: dict[str, type[Layout]] = {
    "IMS_CAPABILITY_": regs.ImsCapability,
    "IMS_CONTROL_": regs.ImsControl,
    "STATUS_": regs.Status,
    "CONTROL_": regs.Control,
    "EVENT_SLOT_": regs.EventSlot,
}
IMS_ENTRY = {
    "IMS_ADDRESS_LO": 0x0,
    "IMS_ADDRESS_HI": 0x4,
    "IMS_DATA": 0x8,
    "IMS_CONTROL": 0xC,
    "IMS_ENTRY_SIZE": MessageEntry.SIZE,
}
SIZES = {"__u8": 1, "__le16": 2, "__le32": 4, "__le64": 8}


def value_of(text: str) -> int:
    """Return the value of a macro's body: a number, BIT(n) or GENMASK(high, low)."""
    if match := re.fullmatch(r"BIT\((\d+)\)", text):
        return 1 << int(match[1])
    if match := re.fullmatch(r"GENMASK(?:_ULL)?\((\d+), (\d+)\)", text):
        high, low = int(match[1]), int(match[2])
        return (1 << (high + 1)) - (1 << low)
    return int(text, 0)


def header_numbers() -> dict[str, int]:
    """Return every number that the header defines, without the prefix."""
    found = re.findall(
        rf"^#define +{PREFIX}(\w+)[ \t]+(\S.*?)(?:\s*/\*.*)?$", HEADER.read_text(), re.MULTILINE
    )
    return {name: value_of(text) for name, text in found}


def spec_numbers() -> dict[str, int]:
    """Return every number that the header has to define."""
    numbers = {name: int(getattr(regs, name)) for name in CONSTANTS}
    for prefix, enum in ENUMS.items():
        numbers |= {prefix + member.name: member.value for member in enum}
    for prefix, layout in LAYOUTS.items():
        for name, _ in layout():
            field = getattr(layout, name)
            numbers[prefix + name.upper()] = field.mask << field.low
    return numbers | IMS_ENTRY


def header_struct(name: str) -> dict[str, tuple[int, int]]:
    """Return the members of a struct in the header: name to (offset, size)."""
    match = re.search(
        rf"^struct {name} {{\n(.*?)^}};", HEADER.read_text(), re.MULTILINE | re.DOTALL
    )
    assert match, f"no struct {name}"
    members, offset = {}, 0
    for kind, member in re.findall(r"^\t(\w+) (\w+);$", match[1], re.MULTILINE):
        size = SIZES[kind]
        assert offset % size == 0, f"{member} is not aligned: a compiler would move it"
        members[member] = (offset, size)
        offset += size
    return members


def test_the_header_defines_the_numbers_of_the_specification_and_no_others() -> None:
    assert header_numbers() == spec_numbers()


def test_an_ims_entry_has_its_fields_where_the_header_says() -> None:
    raw = MessageEntry(0x1122334455667788, 0x99AABBCC, VectorControl(mask=1)).pack()
    at = header_numbers()
    assert raw[at["IMS_ADDRESS_LO"] :][:4] == bytes.fromhex("88776655")
    assert raw[at["IMS_ADDRESS_HI"] :][:4] == bytes.fromhex("44332211")
    assert raw[at["IMS_DATA"] :][:4] == bytes.fromhex("ccbbaa99")
    assert raw[at["IMS_CONTROL"] :][:4] == bytes.fromhex("01000000")
    assert len(raw) == at["IMS_ENTRY_SIZE"]


@pytest.mark.parametrize(
    ("struct", "record"),
    [
        (
            "imstest_work_descriptor",
            regs.WorkDescriptor(
                opcode=0x11,
                flags=0x22,
                store=0x3344,
                index=0x55667788,
                cookie=0x0102030405060708,
                completion=0x1112131415161718,
                reserved=0x2122232425262728,
            ),
        ),
        ("imstest_completion_record", regs.CompletionRecord(0x11223344, 0x55667788, 0x99)),
    ],
)
def test_a_struct_has_every_member_where_the_specification_packs_it(
    struct: str, record: regs.WorkDescriptor | regs.CompletionRecord
) -> None:
    raw = record.pack()
    members = header_struct(struct)
    found = {
        name: int.from_bytes(raw[offset : offset + size], "little")
        for name, (offset, size) in members.items()
    }
    assert found == {name: getattr(record, name) for name in members}
    assert sum(size for _, size in members.values()) == len(raw) == type(record).SIZE
