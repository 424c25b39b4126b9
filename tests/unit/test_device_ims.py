"""The IMS array, in our own memory and in a file that a client maps."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import pytest

from harness.devices.ims_function.ims import ImsStore
from harness.spec.ims_function import BAR_IMS_SIZE
from harness.spec.msi import NULL_MESSAGE, Message, MessageEntry, VectorControl

pytestmark = pytest.mark.capability("A4")


@pytest.fixture(params=[False, True], ids=["trapped", "mapped"])
def ims(request: pytest.FixtureRequest) -> Iterator[ImsStore]:
    store = ImsStore(2048, mapped=request.param)
    yield store
    store.close()


def test_every_entry_is_masked_and_null_after_power_on(ims: ImsStore) -> None:
    assert all(ims.masked(index) for index in range(2048))
    assert ims.message(2047) == NULL_MESSAGE


def test_an_entry_is_read_as_it_stands_now(ims: ImsStore) -> None:
    assert ims.write(16 * 7, (0xFEE00018).to_bytes(8, "little"))
    assert ims.write(16 * 7 + 8, (0x99).to_bytes(8, "little"))
    assert ims.message(7) == Message(0xFEE00018, 0x99)
    assert not ims.masked(7)
    assert ims.write(16 * 7 + 8, (0x9A).to_bytes(4, "little"))
    assert ims.message(7) == Message(0xFEE00018, 0x9A)


@pytest.mark.parametrize(
    ("control", "pasid"),
    [(0, None), (0xFFFFF << 12, None), (1 << 3, 0), (0xABCDE << 12 | 1 << 3, 0xABCDE)],
)
def test_a_message_has_the_pasid_of_its_entry(
    ims: ImsStore, control: int, pasid: int | None
) -> None:
    assert ims.write(12, control.to_bytes(4, "little"))
    assert ims.message(0).pasid == pasid
    assert not ims.masked(0)


def test_reserved_bits_are_kept_to_be_seen_and_mask_nothing(ims: ImsStore) -> None:
    assert ims.write(12, (0xFFFFFFFE).to_bytes(4, "little"))
    assert not ims.masked(0)
    entry = ims.read(8, 8)
    assert entry is not None
    assert VectorControl.unpack(entry[4:]).value == 0xFFFFFFFE


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (0, 2), (2, 4), (4, 8), (0x8000, 4)])
def test_only_whole_aligned_dwords_and_qwords_are_accesses(
    ims: ImsStore, offset: int, size: int
) -> None:
    assert ims.read(offset, size) is None
    assert not ims.write(offset, bytes(size))


def test_what_is_behind_the_last_entry_is_no_entry() -> None:
    store = ImsStore(4, mapped=False)
    assert store.read(16 * 3, 8) is not None
    assert store.read(16 * 4, 8) is None


def test_pending_bits_are_read_by_dword(ims: ImsStore) -> None:
    ims.pending = {0, 31, 32, 2047}
    assert ims.pending_word(0) == 0x80000001
    assert ims.pending_word(4) == 1
    assert ims.pending_word(0xFC) == 0x80000000


def test_stores_to_the_mapped_file_are_seen_at_once() -> None:
    store = ImsStore(2048, mapped=True)
    try:
        assert store.fd is not None
        with mmap.mmap(store.fd, BAR_IMS_SIZE) as guest:
            guest[32:48] = MessageEntry(0xFEE00038, 0x41, VectorControl(mask=0)).pack()
            assert store.message(2) == Message(0xFEE00038, 0x41)
            assert not store.masked(2)
            store.reset()
            assert guest[44] == 1
    finally:
        store.close()


def test_closing_gives_the_memory_file_back() -> None:
    before = set(os.listdir("/proc/self/fd"))
    ImsStore(2048, mapped=True).close()
    assert set(os.listdir("/proc/self/fd")) == before
