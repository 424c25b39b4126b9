"""PCI MSI-X: when a message is re-read, who masks, what may be accessed."""

from __future__ import annotations

import pytest

from harness.devices.ims_function.config import config_space
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.pci.msix import MsixStore
from harness.spec.msi import NULL_MESSAGE, Message
from harness.spec.pci import CapabilityId

pytestmark = pytest.mark.capability("A2")

ENABLE = 0x8000
FUNCTION_MASK = 0x4000


class Msix:
    """The store with the guest's hands on its registers and table."""

    def __init__(self, vectors: int = 70):
        self.config = config_space(ImsFunctionSpec(msix_vectors=vectors))
        self.store = MsixStore(self.config)
        self.place = self.config.capabilities[CapabilityId.MSIX].offset

    def control(self, value: int) -> None:
        self.config.write(self.place + 2, value.to_bytes(2, "little"))
        self.store.registers_written()

    def program(self, index: int, address: int, data: int) -> None:
        assert self.store.table_write(16 * index, address.to_bytes(8, "little"))
        assert self.store.table_write(16 * index + 8, data.to_bytes(4, "little"))

    def mask(self, index: int, on: bool) -> None:
        assert self.store.table_write(16 * index + 12, int(on).to_bytes(4, "little"))


@pytest.fixture
def msix() -> Msix:
    return Msix()


def test_every_entry_is_masked_after_reset(msix: Msix) -> None:
    msix.control(ENABLE)
    assert all(msix.store.masked(index) for index in range(70))


def test_an_entry_is_re_read_when_its_mask_bit_clears(msix: Msix) -> None:
    msix.control(ENABLE)
    msix.program(5, 0xFEE00018, 0x1)
    msix.mask(5, False)
    assert msix.store.message(5) == Message(0xFEE00018, 0x1)


def test_an_entry_changed_while_unmasked_keeps_the_old_message(msix: Msix) -> None:
    msix.control(ENABLE)
    msix.program(5, 0xFEE00018, 0x1)
    msix.mask(5, False)
    msix.program(5, 0xFEE00038, 0x2)
    assert msix.store.message(5) == Message(0xFEE00018, 0x1)
    msix.mask(5, False)  # it was clear already: nothing clears
    assert msix.store.message(5) == Message(0xFEE00018, 0x1)


def test_an_entry_changed_while_masked_is_not_re_read_before_unmask(msix: Msix) -> None:
    msix.control(ENABLE)
    msix.program(5, 0xFEE00018, 0x1)
    msix.mask(5, False)
    msix.mask(5, True)
    msix.program(5, 0xFEE00038, 0x2)
    assert msix.store.message(5) == Message(0xFEE00018, 0x1)
    msix.mask(5, False)
    assert msix.store.message(5) == Message(0xFEE00038, 0x2)


def test_unmasking_one_entry_re_reads_no_other(msix: Msix) -> None:
    msix.control(ENABLE)
    for index in (5, 6):
        msix.program(index, 0xFEE00018, index)
        msix.mask(index, False)
    msix.program(6, 0xFEE00018, 0x66)
    msix.mask(5, True)
    msix.mask(5, False)
    assert msix.store.message(6) == Message(0xFEE00018, 6)


def test_clearing_function_mask_re_reads_the_entries_that_it_held(msix: Msix) -> None:
    msix.control(ENABLE | FUNCTION_MASK)
    msix.program(5, 0xFEE00018, 0x1)
    msix.mask(5, False)
    assert msix.store.masked(5)
    assert msix.store.message(5) == NULL_MESSAGE
    msix.control(ENABLE)
    assert not msix.store.masked(5)
    assert msix.store.message(5) == Message(0xFEE00018, 0x1)


def test_a_qword_that_holds_data_and_unmask_is_taken_as_one(msix: Msix) -> None:
    msix.control(ENABLE)
    assert msix.store.table_write(16 * 5, (0xFEE00018).to_bytes(8, "little"))
    assert msix.store.table_write(16 * 5 + 8, (0x33).to_bytes(8, "little"))
    assert msix.store.message(5) == Message(0xFEE00018, 0x33)


def test_a_wired_vector_is_masked_by_the_function_mask_alone(msix: Msix) -> None:
    msix.control(ENABLE)
    assert msix.store.masked(5)
    assert not msix.store.masked(5, wired=True)
    msix.control(ENABLE | FUNCTION_MASK)
    assert msix.store.masked(5, wired=True)


def test_reserved_bits_of_vector_control_stay_zero(msix: Msix) -> None:
    assert msix.store.table_write(12, b"\xff" * 4)
    assert msix.store.table_read(12, 4) == bytes.fromhex("01000000")
    assert msix.store.table_write(8, b"\xff" * 8)
    assert msix.store.table_read(8, 8) == bytes.fromhex("ffffffff 01000000")


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 1), (0, 2), (0, 3), (2, 4), (4, 8), (0, 16), (0, 0), (16 * 70, 4), (16 * 70 - 4, 8)],
)
def test_the_table_takes_whole_aligned_dwords_and_qwords_of_itself_only(
    msix: Msix, offset: int, size: int
) -> None:
    assert msix.store.table_read(offset, size) is None
    assert not msix.store.table_write(offset, bytes(size))


def test_the_pending_bits_stand_in_qwords(msix: Msix) -> None:
    msix.store.pending = {0, 33, 69}
    assert msix.store.pba_read(0, 8) == (1 | 1 << 33).to_bytes(8, "little")
    assert msix.store.pba_read(4, 4) == (1 << 1).to_bytes(4, "little")
    assert msix.store.pba_read(8, 8) == (1 << 5).to_bytes(8, "little")


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (0, 2), (2, 4), (4, 8), (16, 4)])
def test_the_pending_bits_are_read_as_the_table_is(msix: Msix, offset: int, size: int) -> None:
    assert msix.store.pba_read(offset, size) is None


def test_reset_masks_every_entry_again(msix: Msix) -> None:
    msix.control(ENABLE)
    msix.program(5, 0xFEE00018, 0x1)
    msix.mask(5, False)
    msix.store.pending.add(5)
    msix.config.reset()
    msix.store.reset()
    msix.control(ENABLE)
    assert msix.store.masked(5)
    assert msix.store.message(5) == NULL_MESSAGE
    assert not msix.store.pending
