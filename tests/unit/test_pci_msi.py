"""PCI MSI: latching, messages, masks."""

from __future__ import annotations

import pytest

from harness.devices.ims_function.config import config_space
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.pci.msi import MsiStore
from harness.spec.msi import Message
from harness.spec.pci import CapabilityId

pytestmark = pytest.mark.capability("A1")


class Msi:
    """The store with the guest's hands on its registers."""

    def __init__(self, spec: ImsFunctionSpec):
        self.config = config_space(spec)
        self.store = MsiStore(self.config)
        self.place = self.config.capabilities[CapabilityId.MSI].offset

    def write(self, offset: int, size: int, value: int) -> None:
        self.config.write(self.place + offset, value.to_bytes(size, "little"))
        self.store.registers_written()

    def enable(self, log2: int) -> None:
        self.write(2, 2, 1 | log2 << 4)


@pytest.fixture
def msi() -> Msi:
    return Msi(ImsFunctionSpec(msi_vectors=16))


def test_nothing_is_enabled_before_enable_is_set(msi: Msi) -> None:
    msi.write(2, 2, 4 << 4)
    assert not msi.store.enabled(0)


@pytest.mark.parametrize("log2", range(5))
def test_as_many_messages_are_granted_as_multiple_message_enable_says(msi: Msi, log2: int) -> None:
    msi.enable(log2)
    assert [msi.store.enabled(index) for index in range(16)].count(True) == 1 << log2


@pytest.mark.parametrize("log2", [5, 6, 7])
def test_more_messages_than_the_function_has_are_cut_down(msi: Msi, log2: int) -> None:
    msi.enable(log2)
    assert msi.store.granted == 16


def test_the_number_of_messages_is_latched_while_msi_is_enabled(msi: Msi) -> None:
    msi.enable(1)
    msi.enable(3)
    assert msi.store.granted == 2
    msi.write(2, 2, 0)
    msi.enable(3)
    assert msi.store.granted == 8


def test_a_message_is_the_base_with_its_low_data_bits_replaced(msi: Msi) -> None:
    msi.write(4, 4, 0xFEE00218)
    msi.write(8, 4, 0x1)
    msi.write(12, 2, 0x4127)
    msi.enable(2)
    assert [msi.store.message(index) for index in range(4)] == [
        Message(0x1_FEE00218, 0x4124),
        Message(0x1_FEE00218, 0x4125),
        Message(0x1_FEE00218, 0x4126),
        Message(0x1_FEE00218, 0x4127),
    ]


def test_a_single_message_keeps_its_data_whole(msi: Msi) -> None:
    msi.write(12, 2, 0x4127)
    msi.enable(0)
    assert msi.store.message(0).data == 0x4127


def test_the_32_bit_form_has_its_data_behind_the_low_address() -> None:
    msi = Msi(ImsFunctionSpec(msi_64bit=False))
    msi.write(4, 4, 0xFEE00000)
    msi.write(8, 2, 0x40)
    msi.enable(0)
    assert msi.store.message(0) == Message(0xFEE00000, 0x40)


@pytest.mark.parametrize(("is_64bit", "mask_at"), [(True, 0x10), (False, 0x0C)])
def test_a_mask_bit_holds_its_own_message_only(is_64bit: bool, mask_at: int) -> None:
    msi = Msi(ImsFunctionSpec(msi_64bit=is_64bit))
    msi.enable(5)
    msi.write(mask_at, 4, 1 << 3)
    assert [index for index in range(32) if msi.store.masked(index)] == [3]


def test_without_per_vector_masking_nothing_is_masked() -> None:
    msi = Msi(ImsFunctionSpec(msi_per_vector_mask=False))
    msi.enable(5)
    msi.write(0x10, 4, 0xFFFFFFFF)
    assert not any(msi.store.masked(index) for index in range(32))


@pytest.mark.parametrize(("is_64bit", "pending_at"), [(True, 0x14), (False, 0x10)])
def test_pending_bits_are_shown_and_cannot_be_written(is_64bit: bool, pending_at: int) -> None:
    msi = Msi(ImsFunctionSpec(msi_64bit=is_64bit))
    for index in (0, 31):
        msi.store.set_pending(index, True)
    msi.write(pending_at, 4, 0)
    assert msi.config.get(msi.place + pending_at, 4) == 0x80000001
    msi.store.set_pending(31, False)
    assert msi.config.get(msi.place + pending_at, 4) == 1


def test_reset_takes_enable_and_pending_away(msi: Msi) -> None:
    msi.enable(0)
    msi.store.pending.add(0)
    msi.config.reset()
    msi.store.reset()
    assert not msi.store.enabled(0)
    assert not msi.store.pending
