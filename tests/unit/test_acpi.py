"""ACPI tables from bytes and into bytes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.spec.acpi import HEADER_SIZE, TableHeader, sealed
from harness.spec.acpi_dmar import DeviceScope, Dmar, DmarFlags, RemappingUnit, ScopeType
from harness.spec.acpi_vire import ImsUse, Vire
from harness.spec.pci import RequesterId

# /sys/firmware/acpi/tables/DMAR of Linux 6.12 on QEMU 11.1's q35 with -device intel-iommu.
QEMUS_DMAR = bytes.fromhex(
    "444d415270000000015c424f4348532042585043202020200100000042585043"
    "010000002f010000000000000000000000004000000000000000d9fe00000000"
    "03080000 00ff0000 01080000 00000000 01080000 00000100 02080000 00000200"
    "01080000 00000300 01080000 00001f00"
)
VIRE = Vire(ims=ImsUse.CALL, function=RequesterId.of(1, 2, 3), segment=0x1234)


def damaged(table: bytes, offset: int, value: int) -> bytes:
    """Return a table with one byte that is wrong and a check sum that is right."""
    return sealed(table[:offset] + bytes([value]) + table[offset + 1 :])


def with_more(structure: bytes) -> bytes:
    """Return QEMU's table with something behind its structures."""
    return Dmar.unpack(QEMUS_DMAR).header.pack(QEMUS_DMAR[HEADER_SIZE:] + structure)


def test_a_vire_table_is_as_documented() -> None:
    table = VIRE.pack()
    assert table[:4] == b"VIRE"
    assert len(table) == int.from_bytes(table[4:8], "little") == 48
    assert table[8] == 1
    assert table[36:] == bytes.fromhex("02 00 3412 01 13 000000000000")
    assert sum(table) % 256 == 0
    assert Vire.unpack(table) == VIRE


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (VIRE.pack()[:35], "35 bytes hold no ACPI table header"),
        (VIRE.pack()[:-1], "the header says 48 bytes, there are 47"),
        (VIRE.pack()[:-1] + b"\1", "add up to 0x01"),
        (damaged(VIRE.pack(), 0, ord("F")), "FIRE of revision 1"),
        (damaged(VIRE.pack(), 8, 2), "VIRE of revision 2"),
        (TableHeader(signature="VIRE", revision=1).pack(bytes(13)), "and 49 bytes: not"),
        (damaged(VIRE.pack(), 36, 3), "3 is not a valid ImsUse"),
        (damaged(VIRE.pack(), 37, 1), "reserved bytes are not zero"),
        (damaged(VIRE.pack(), 47, 1), "reserved bytes are not zero"),
    ],
)
def test_a_bad_vire_table_is_refused(table: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vire.unpack(table)


def test_qemus_dmar_table_is_understood() -> None:
    dmar = Dmar.unpack(QEMUS_DMAR)
    (unit,) = dmar.units
    assert (dmar.address_width, dmar.flags, dmar.ims_allowed) == (48, DmarFlags.INTR_REMAP, None)
    assert (unit.address, unit.include_pci_all) == (0xFED9_0000, False)
    assert unit.scopes[0] == DeviceScope(ScopeType.IOAPIC, 0, 0xFF, ((0, 0),))
    assert [scope.path[0][0] for scope in unit.scopes[1:]] == [0, 1, 2, 3, 0x1F]
    assert dmar.pack() == QEMUS_DMAR


@pytest.mark.parametrize("allowed", [True, False])
def test_the_new_format_says_whether_ims_is_allowed(allowed: bool) -> None:
    table = Dmar.unpack(QEMUS_DMAR).saying_ims(allowed).pack()
    assert (table[8], table[37]) == (2, 9 if allowed else 1)
    assert Dmar.unpack(table).ims_allowed is allowed


def test_the_flag_of_the_new_format_means_nothing_in_the_old_one() -> None:
    assert Dmar.unpack(damaged(QEMUS_DMAR, 37, 9)).ims_allowed is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (VIRE.pack(), "VIRE of 48 bytes is no DMAR table"),
        (QEMUS_DMAR[:-1], "the header says 112 bytes"),
        (damaged(QEMUS_DMAR, 50, 0), "a structure of 0 bytes at 0x30"),
        (damaged(QEMUS_DMAR, 50, 65), "a structure of 65 bytes at 0x30"),
        (with_more(b"\0"), "half a structure at 0x70"),
        (with_more(b"\1\0\5"), "half a structure at 0x70"),
        (with_more(b"\1\0\5\0"), "a structure of 5 bytes at 0x70"),
        (damaged(QEMUS_DMAR, 65, 9), "a device scope of 9 bytes"),
        (damaged(QEMUS_DMAR, 65, 4), "a device scope of 4 bytes"),
        (damaged(QEMUS_DMAR, 65, 64), "a device scope of 64 bytes"),
    ],
)
def test_a_bad_dmar_table_is_refused(table: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dmar.unpack(table)


def test_a_structure_that_is_not_known_is_carried() -> None:
    stranger = bytes.fromhex("7f00 0600 abcd")
    table = with_more(stranger)
    assert Dmar.unpack(table).others == (stranger,)
    assert Dmar.unpack(table).pack() == table


@given(st.binary(max_size=160))
def test_any_bytes_are_a_dmar_table_or_a_value_error(data: bytes) -> None:
    table = Dmar.unpack(QEMUS_DMAR).header.pack(data)
    with contextlib.suppress(ValueError):
        Dmar.unpack(table)


@given(st.integers(0, 255), st.integers(0, len(QEMUS_DMAR) - 1))
def test_a_wrong_byte_is_seen_by_the_check_sum(value: int, offset: int) -> None:
    table = QEMUS_DMAR[:offset] + bytes([value]) + QEMUS_DMAR[offset + 1 :]
    if table != QEMUS_DMAR:
        with pytest.raises(ValueError, match=r"add up to|the header says"):
            TableHeader.unpack(table)


def test_a_unit_knows_its_way_into_bytes() -> None:
    unit = RemappingUnit(address=1 << 40, scopes=(), segment=7)
    assert unit.pack() == bytes.fromhex("0000 1000 01 00 0700 0000000000010000")
