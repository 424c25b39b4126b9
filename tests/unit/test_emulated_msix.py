"""MSI-X of a function that QEMU emulates: what is sent, and what is held back."""

from __future__ import annotations

import pytest

from harness.spec.msi import Message
from harness.spec.pci import Command, MsixControl
from harness.testbed.emulated_msix import EmulatedMsix

COUNT = 4
ON = MsixControl(enable=1)
FUNCTION_MASK = MsixControl(enable=1, function_mask=1)
OFF = MsixControl()


def message(vector: int) -> Message:
    return Message(0xFCE0_0000 + 4 * vector, 0x100 + vector)


def fill(msix: EmulatedMsix, vector: int) -> None:
    """Put a vector's message into its entry, and leave the mask."""
    words = message(vector).address, 0, message(vector).data
    for number, word in enumerate(words):
        assert msix.table_written(16 * vector + 4 * number, word) == []


def mask(msix: EmulatedMsix, vector: int, bit: int) -> list[Message]:
    return msix.table_written(16 * vector + 12, bit)


@pytest.fixture
def msix() -> EmulatedMsix:
    """One whose vectors are all used and sent."""
    msix = EmulatedMsix(COUNT)
    msix.command_written(Command(bus_master=1))
    msix.control_written(ON)
    for vector in range(COUNT):
        msix.use(vector)
        fill(msix, vector)
        mask(msix, vector, 0)
    return msix


def test_what_fires_is_sent_as_its_entry_is(msix: EmulatedMsix) -> None:
    assert [msix.fire(vector) for vector in range(COUNT)] == [[message(v)] for v in range(COUNT)]
    msix.table_written(16 + 8, 0x77)
    assert msix.fire(1) == [Message(message(1).address, 0x77)]


def test_from_the_reset_on_every_entry_is_masked() -> None:
    msix = EmulatedMsix(COUNT)
    msix.command_written(Command(bus_master=1))
    msix.control_written(ON)
    msix.use(0)
    assert msix.fire(0) == []
    assert mask(msix, 0, 0) == [Message(0, 0)]


def test_what_fires_behind_its_mask_is_sent_once_when_that_is_gone(msix: EmulatedMsix) -> None:
    mask(msix, 2, 1)
    assert msix.fire(2) == msix.fire(2) == []
    assert msix.fire(1) == [message(1)]
    assert mask(msix, 1, 1) == mask(msix, 1, 0) == []
    assert mask(msix, 2, 0) == [message(2)]
    assert mask(msix, 2, 1) == mask(msix, 2, 0) == []


def test_what_fires_behind_the_function_mask_is_sent_in_order_but_for_what_is_masked_yet(
    msix: EmulatedMsix,
) -> None:
    mask(msix, 1, 1)
    msix.control_written(FUNCTION_MASK)
    assert [msix.fire(vector) for vector in (3, 1, 0)] == [[], [], []]
    assert msix.control_written(ON) == [message(0), message(3)]
    assert mask(msix, 1, 0) == [message(1)]


def test_what_was_pending_when_it_was_switched_off_is_sent_when_it_is_on(
    msix: EmulatedMsix,
) -> None:
    mask(msix, 0, 1)
    msix.fire(0)
    msix.control_written(OFF)
    assert mask(msix, 0, 0) == []
    assert msix.fire(1) == []  # INTx
    assert msix.control_written(ON) == [message(0)]


def test_without_bus_mastering_it_is_lost(msix: EmulatedMsix) -> None:
    msix.command_written(Command(memory_space=1))
    assert msix.fire(0) == []
    mask(msix, 1, 1)
    msix.fire(1)
    assert mask(msix, 1, 0) == []
    msix.command_written(Command(bus_master=1))
    assert mask(msix, 1, 1) == mask(msix, 1, 0) == []
    assert msix.fire(0) == [message(0)]


def test_a_vector_that_nothing_uses_sends_nothing_and_has_nothing_pending(
    msix: EmulatedMsix,
) -> None:
    msix.use(1)
    mask(msix, 1, 1)
    msix.fire(1)
    msix.unuse(1)
    assert mask(msix, 1, 0) == [message(1)]  # there is another user
    mask(msix, 1, 1)
    msix.fire(1)
    msix.unuse(1)
    assert mask(msix, 1, 0) == msix.fire(1) == []
    msix.unuse(1)
    msix.use(1)
    assert msix.fire(1) == [message(1)]
    msix.unuse_all()
    assert [msix.fire(vector) for vector in range(COUNT)] == [[]] * COUNT


def test_a_reset_masks_and_forgets_what_was_pending(msix: EmulatedMsix) -> None:
    mask(msix, 0, 1)
    msix.fire(0)
    msix.reset()
    msix.command_written(Command(bus_master=1))
    assert msix.control_written(ON) == mask(msix, 0, 0) == []
    assert msix.fire(0) == [Message(0, 0)]
    assert msix.fire(1) == []


def test_a_write_that_is_none_of_a_dword_of_the_table_changes_nothing(msix: EmulatedMsix) -> None:
    for offset in (16 * COUNT, 16 * COUNT + 12, 2):
        assert msix.table_written(offset, 1) == []
    assert [msix.fire(vector) for vector in range(COUNT)] == [[message(v)] for v in range(COUNT)]
