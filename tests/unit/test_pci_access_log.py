"""Trapped accesses: exact counts by area, decoded names, refusals logged once."""

from __future__ import annotations

import logging

import pytest

from harness.devices.ims_function.address_map import AddressMap, Area
from harness.devices.ims_function.config import config_space
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.events.stream import Writer
from harness.pci.access_log import Access, AccessCount, AccessLog, RefusalLog
from harness.spec.interrupt import Store
from tests.memory_growth import memory_growth


@pytest.fixture
def address_map() -> AddressMap:
    return AddressMap(config_space(ImsFunctionSpec()))


@pytest.mark.parametrize(
    ("region", "offset", "area"),
    [
        (0, 0x0000, Area.CONTROL),
        (0, 0x01FC, Area.CONTROL),
        (0, 0x4000, Area.EVENTS),
        (2, 0x0000, Area.MSIX_TABLE),
        (2, 0x7FFC, Area.MSIX_TABLE),
        (2, 0x8000, Area.MSIX_PBA),
        (4, 0x0000, Area.IMS),
        (7, 0x0004, Area.CONFIG),
        (7, 0x0042, Area.MSI),
        (7, 0x005A, Area.MSIX_CONTROL),
        (7, 0x0064, Area.CONFIG),
    ],
)
def test_each_place_belongs_to_one_area(
    address_map: AddressMap, region: int, offset: int, area: Area
) -> None:
    assert address_map.area(region, offset, 4) is area


@pytest.mark.parametrize(
    ("region", "offset", "name"),
    [
        (0, 0x0020, "WQ_TAIL"),
        (0, 0x0104, "IMS_PENDING[1]"),
        (0, 0x0F00, "+0xf00"),
        (0, 0xC028, "EVENT_IMS[5]"),
        (0, 0x80 * 0x100 + 16, "EVENT_MSIX[2]"),
        (2, 0x0018, "MSIX[1].data"),
        (2, 0x8008, "PBA[1]"),
        (4, 0x007C, "IMS[7].control"),
        (4, 0x0074, "IMS[7].address+4"),
        (7, 0x0004, "COMMAND"),
        (7, 0x0042, "MSI+0x2"),
        (7, 0x0900, "+0x900"),
    ],
)
def test_each_place_has_its_name(
    address_map: AddressMap, region: int, offset: int, name: str
) -> None:
    assert address_map.name(region, offset) == name


@pytest.mark.parametrize(
    ("offset", "slot"),
    [
        (0x4000, (Store.MSI, 0)),
        (0x40F8, (Store.MSI, 31)),
        (0x4100, None),
        (0x8000, (Store.MSIX, 0)),
        (0xBFF8, (Store.MSIX, 2047)),
        (0xC000, (Store.IMS, 0)),
        (0xFFF8, (Store.IMS, 2047)),
        (0xC004, None),
    ],
)
def test_each_event_slot_is_its_interrupts(
    address_map: AddressMap, offset: int, slot: tuple[Store, int] | None
) -> None:
    assert address_map.event_slot(offset) == slot


def test_reads_and_writes_are_counted_apart_and_by_area(address_map: AddressMap) -> None:
    log = AccessLog(Area, address_map.name, Writer("function"))
    log.record(Area.IMS, 4, 0, bytes(4), write=True)
    mark = log.mark()
    log.record(Area.IMS, 4, 0, bytes(4), write=True)
    log.record(Area.IMS, 4, 0, bytes(4), write=False)
    log.record(Area.IMS, 4, 0, bytes(4), write=False)
    assert log.counts_since(mark)[Area.IMS] == AccessCount(reads=2, writes=1)
    assert log.counts_since()[Area.IMS].total == 4
    assert log.counts_since(mark)[Area.MSIX_TABLE] == AccessCount()


def test_an_access_is_kept_decoded(address_map: AddressMap) -> None:
    log = AccessLog(Area, address_map.name, Writer("function"))
    log.record(Area.CONTROL, 0, 0x20, b"\x07\0\0\0", write=True)
    log.record(Area.IMS, 4, 8, b"\x01\0\0\0", write=False)
    assert [str(access) for access in log.accesses()] == [
        "BAR0+0x20/4 WQ_TAIL <- 0x7",
        "BAR4+0x8/4 IMS[0].data -> 0x1",
    ]
    assert [access.register for access in log.accesses(Area.IMS)] == ["IMS[0].data"]


@pytest.mark.parametrize("size", [4, 64 << 10])
def test_what_is_kept_is_bounded_in_bytes_and_the_counts_stay_exact(
    address_map: AddressMap, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 1 << 20
    monkeypatch.setattr(Access, "LIMIT", limit)
    log = AccessLog(Area, address_map.name, Writer("function"))
    many = 10_000
    with memory_growth() as growth:
        for number in range(many):
            log.record(Area.IMS, 4, number * 4, number.to_bytes(size, "little"), write=True)
    assert 0.5 * limit < growth.bytes < limit
    assert log.counts_since()[Area.IMS].writes == many
    newest = log.accesses()[-1]
    assert (newest.size, newest.value) == (size, many - 1)


def test_a_refused_access_counts_each_time_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusals = RefusalLog()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            refusals.refuse(0, 0x31, 2, write=True)
        refusals.refuse(0, 0x31, 2, write=False)
    assert refusals.count == 4
    assert [record.getMessage() for record in caplog.records] == [
        "refused: a 2-byte write at BAR0+0x31",
        "refused: a 2-byte read at BAR0+0x31",
    ]
