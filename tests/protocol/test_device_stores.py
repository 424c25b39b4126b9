"""MSI, MSI-X and IMS of the whole function: what is sent, what is held, what is refused."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator

import pytest

from harness.devices.ims_function.address_map import Area
from harness.devices.ims_function.function import ImsFunction
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.devices.ledger import Fate
from harness.remapping.translate import Fault
from harness.spec.ims_function import BAR_IMS, BAR_MSIX, Register
from harness.spec.interrupt import Store
from harness.spec.msi import Message
from harness.spec.pci import CapabilityId, RequesterId
from harness.spec.vfio import IrqIndexNumber
from harness.spec.vtd import FaultReason
from tests.protocol.device_guest import MESSAGE, Guest, guest_of, running_guest, soon


@pytest.fixture
def guest() -> Iterator[Guest]:
    threads = threading.active_count()
    with running_guest() as guest:
        yield guest
    assert threading.active_count() == threads


# MSI


def test_msi_sends_the_base_message_with_the_index_in_its_low_bits(guest: Guest) -> None:
    guest.enable_msi(2, data=0x40)
    for index in (0, 3):
        guest.function.raise_interrupt(Store.MSI, index)
        assert guest.next_message() == (MESSAGE, 0x40 + index)


def test_an_msi_that_was_not_granted_is_not_sent(guest: Guest) -> None:
    guest.enable_msi(2)
    event = guest.function.raise_interrupt(Store.MSI, 4)
    assert event.fate is Fate.DISABLED
    assert guest.no_message()


def test_a_masked_msi_is_pending_and_sent_once_on_unmask(guest: Guest) -> None:
    guest.enable_msi(2)
    guest.mask_msi(1 << 1)
    first = guest.function.raise_interrupt(Store.MSI, 1)
    again = guest.function.raise_interrupt(Store.MSI, 1)
    assert (first.fate, again.fate) == (Fate.PENDING, Fate.MERGED)
    assert guest.msi_pending() == 1 << 1
    assert guest.no_message()
    guest.mask_msi(0)
    assert guest.next_message() == (MESSAGE, 0x41)
    assert guest.msi_pending() == 0
    assert guest.no_message()
    assert guest.handle(Store.MSI, 1, cpu=2) == first.sequence
    assert first.cpu == 2


def test_disabling_msi_forgets_what_is_pending(guest: Guest) -> None:
    guest.enable_msi(2)
    guest.mask_msi(1)
    event = guest.function.raise_interrupt(Store.MSI, 0)
    guest.write_config(guest.capability(CapabilityId.MSI) + 2, 2, 0)
    assert event.fate is Fate.DROPPED
    assert guest.msi_pending() == 0
    guest.enable_msi(2)
    guest.mask_msi(0)
    assert guest.no_message()


def test_a_wired_msi_signals_its_eventfd_and_sends_no_message(guest: Guest) -> None:
    guest.enable_msi(2)
    guest.wire(IrqIndexNumber.MSI, 4)
    event = guest.function.raise_interrupt(Store.MSI, 3)
    assert event.fate is Fate.SENT
    assert [guest.signals(3), guest.signals(0, within=0)] == [1, 0]
    assert guest.no_message()


def test_a_mask_in_config_space_holds_a_wired_msi_too(guest: Guest) -> None:
    guest.enable_msi(0)
    guest.wire(IrqIndexNumber.MSI, 1)
    guest.mask_msi(1)
    guest.function.raise_interrupt(Store.MSI, 0)
    assert guest.signals(0, within=0) == 0
    guest.mask_msi(0)
    assert guest.signals(0) == 1


# MSI-X


def test_msix_sends_the_message_that_stood_there_at_unmask(guest: Guest) -> None:
    guest.control_msix()
    guest.program(BAR_MSIX, 5, 0x55)
    guest.function.raise_interrupt(Store.MSIX, 5)
    assert guest.next_message() == (MESSAGE, 0x55)
    guest.program(BAR_MSIX, 5, 0x66)  # not masked first: the device need not look
    guest.function.raise_interrupt(Store.MSIX, 5)
    assert guest.next_message() == (MESSAGE, 0x55)


def test_a_masked_msix_vector_is_pending_and_sent_once_on_unmask(guest: Guest) -> None:
    guest.control_msix()
    guest.program(BAR_MSIX, 5, 0x55, mask=True)
    event = guest.function.raise_interrupt(Store.MSIX, 5)
    guest.function.raise_interrupt(Store.MSIX, 5)
    assert event.fate is Fate.PENDING
    assert guest.client.region_read(BAR_MSIX, 0x8000, 4) == (1 << 5).to_bytes(4, "little")
    guest.mask(BAR_MSIX, 5, False)
    assert guest.next_message() == (MESSAGE, 0x55)
    assert guest.client.region_read(BAR_MSIX, 0x8000, 4) == bytes(4)
    assert guest.no_message()


def test_function_mask_holds_every_vector(guest: Guest) -> None:
    guest.control_msix(function_mask=True)
    for index in (1, 2):
        guest.program(BAR_MSIX, index, index)
        assert guest.function.raise_interrupt(Store.MSIX, index).fate is Fate.PENDING
    guest.control_msix()
    assert [guest.next_message(), guest.next_message()] == [(MESSAGE, 1), (MESSAGE, 2)]
    assert guest.no_message()


def test_msix_sends_nothing_while_it_is_off(guest: Guest) -> None:
    guest.program(BAR_MSIX, 0, 0x55)
    assert guest.function.raise_interrupt(Store.MSIX, 0).fate is Fate.DISABLED
    assert guest.no_message()


def test_a_wired_msix_vector_is_the_clients_to_mask(guest: Guest) -> None:
    guest.control_msix()
    guest.wire(IrqIndexNumber.MSIX, 2)
    assert guest.function.raise_interrupt(Store.MSIX, 1).fate is Fate.SENT
    assert guest.signals(1) == 1
    guest.control_msix(function_mask=True)
    assert guest.function.raise_interrupt(Store.MSIX, 1).fate is Fate.PENDING
    guest.control_msix()
    assert guest.signals(1) == 1


def test_what_waits_for_a_wire_is_signalled_when_it_comes(guest: Guest) -> None:
    guest.control_msix()
    event = guest.function.raise_interrupt(Store.MSIX, 1)
    assert guest.function.ledger.pending(Store.MSIX, 1) is event
    guest.wire(IrqIndexNumber.MSIX, 2)
    assert guest.signals(1) == 1
    assert event.fate is Fate.SENT


# IMS


def test_ims_sends_what_stands_in_the_entry_now(guest: Guest) -> None:
    guest.program(BAR_IMS, 2047, 0x77)
    guest.raise_ims(2047)
    assert guest.next_message() == (MESSAGE, 0x77)
    guest.program(BAR_IMS, 2047, 0x78)
    guest.raise_ims(2047)
    assert guest.next_message() == (MESSAGE, 0x78)


def test_a_masked_ims_entry_is_pending_and_sent_once_on_unmask(guest: Guest) -> None:
    guest.program(BAR_IMS, 33, 0x77, mask=True)
    event = guest.raise_ims(33)
    guest.raise_ims(33)
    assert event.fate is Fate.PENDING
    assert guest.read(Register.IMS_PENDING + 4) == 1 << 1
    assert guest.no_message()
    guest.mask(BAR_IMS, 33, False)
    assert guest.next_message() == (MESSAGE, 0x77)
    assert guest.read(Register.IMS_PENDING + 4) == 0
    assert guest.no_message()


def test_an_entry_sends_while_its_neighbour_is_masked(guest: Guest) -> None:
    guest.program(BAR_IMS, 1, 1)
    guest.program(BAR_IMS, 2, 2, mask=True)
    guest.raise_ims(2)
    guest.raise_ims(1)
    assert guest.next_message() == (MESSAGE, 1)
    assert guest.no_message()


def test_a_store_to_a_mapped_entry_is_no_access_and_takes_effect() -> None:
    with running_guest(ImsFunctionSpec(ims_mapped=True)) as guest:
        array = guest.client.map_region(BAR_IMS)[0]
        mark = guest.function.accesses.mark()
        array[16 * 9 : 16 * 10] = (
            MESSAGE.to_bytes(8, "little") + (0x99).to_bytes(4, "little") + bytes(4)
        )
        guest.raise_ims(9)
        assert guest.next_message() == (MESSAGE, 0x99)
        assert guest.function.accesses.counts_since(mark)[Area.IMS].total == 0


def test_a_mapped_entry_is_watched_while_it_is_pending_and_no_longer() -> None:
    with running_guest(ImsFunctionSpec(ims_mapped=True)) as guest:
        array = guest.client.map_region(BAR_IMS)[0]
        array[16 * 9 : 16 * 9 + 12] = MESSAGE.to_bytes(8, "little") + b"\x99\0\0\0"
        event = guest.raise_ims(9)
        guest.raise_ims(9)
        assert "ims-watch" in [thread.name for thread in threading.enumerate()]
        assert event.fate is Fate.PENDING
        assert guest.no_message()
        array[16 * 9 + 12] = 0
        assert guest.next_message() == (MESSAGE, 0x99)
        deadline = soon("the end of the watch")
        while "ims-watch" in [thread.name for thread in threading.enumerate()]:
            deadline.check()
        assert guest.no_message()
        array[16 * 9 + 12] = 1
        assert guest.raise_ims(9).fate is Fate.PENDING  # a second watch begins
        array[16 * 9 + 12] = 0
        assert guest.next_message() == (MESSAGE, 0x99)


def test_the_watch_ends_with_the_client_when_the_entry_stays_masked() -> None:
    threads = threading.active_count()
    with ImsFunction(ImsFunctionSpec(ims_mapped=True)) as function:
        with guest_of(function) as guest:
            guest.raise_ims(9)
            assert "ims-watch" in [thread.name for thread in threading.enumerate()]
        assert threading.active_count() == threads


# All stores


def test_nothing_is_sent_without_bus_mastering(guest: Guest) -> None:
    guest.program(BAR_IMS, 0, 1)
    guest.control_msix()
    guest.wire(IrqIndexNumber.MSIX, 1)
    guest.bus_master(False)
    for event in (guest.raise_ims(0), guest.function.raise_interrupt(Store.MSIX, 0)):
        assert (event.fate, event.reason) == (Fate.BLOCKED, "bus mastering is off")
    assert guest.no_message()
    assert guest.signals(0, within=0) == 0
    assert guest.function.ledger.counts()["blocked"] == 2


def test_the_null_message_is_never_sent(guest: Guest) -> None:
    guest.mask(BAR_IMS, 0, False)
    event = guest.raise_ims(0)
    assert event.fate is Fate.BLOCKED
    assert "null message" in event.reason
    assert guest.no_message()


def test_a_message_that_the_client_refuses_is_blocked_with_its_reason(guest: Guest) -> None:
    guest.program(BAR_IMS, 0, 1, address=0xFEE00BAD & ~3)
    guest.refused[0xFEE00BAD & ~3] = errno.EFAULT
    event = guest.raise_ims(0)
    deadline = soon("the verdict")
    while event.fate is Fate.SENT:
        deadline.check()
    assert event.fate is Fate.BLOCKED
    assert "EFAULT" in event.reason
    assert guest.handle(Store.IMS, 0) == 0


class Gate:
    """Refuses one address, and notes what it was asked about."""

    def __init__(self) -> None:
        self.asked: list[tuple[Store, int, Message]] = []

    def route(self, store: Store, index: int, message: Message) -> Message | Fault:
        self.asked.append((store, index, message))
        bad = Fault(FaultReason.SOURCE_ID_MISMATCH, RequesterId.of(1), 7)
        return bad if message.data == 0xBAD else message


def test_a_message_that_the_gate_refuses_is_not_sent_and_says_why() -> None:
    gate = Gate()
    with running_guest(gate=gate) as guest:
        guest.program(BAR_IMS, 4, 0xBAD)
        event = guest.raise_ims(4)
        reason = "blocked at IRTE 7: source id mismatch (0x26), from 01:00.0"
        assert (event.fate, event.reason) == (Fate.BLOCKED, reason)
        assert guest.no_message()
        guest.program(BAR_IMS, 4, 0xC0DE)
        guest.raise_ims(4)
        assert guest.next_message() == (MESSAGE, 0xC0DE)
    assert gate.asked == [
        (Store.IMS, 4, Message(MESSAGE, 0xBAD)),
        (Store.IMS, 4, Message(MESSAGE, 0xC0DE)),
    ]


def test_the_gate_may_send_another_message() -> None:
    class Translator(Gate):
        def route(self, store: Store, index: int, message: Message) -> Message | Fault:
            return Message(MESSAGE + 0x1000, message.data + 1)

    with running_guest(gate=Translator()) as guest:
        guest.program(BAR_IMS, 4, 0x30)
        guest.raise_ims(4)
        assert guest.next_message() == (MESSAGE + 0x1000, 0x31)


def test_the_gate_is_not_asked_about_what_the_client_sends() -> None:
    gate = Gate()
    with running_guest(gate=gate) as guest:
        guest.control_msix()
        guest.wire(IrqIndexNumber.MSIX, 1)
        guest.function.raise_interrupt(Store.MSIX, 0)
        assert guest.signals(0) == 1
    assert gate.asked == []


def test_an_interrupt_that_the_function_does_not_have_is_an_error_of_the_test(
    guest: Guest,
) -> None:
    with pytest.raises(ValueError, match="MSIX 9"):
        guest.function.raise_interrupt(Store.MSIX, 9)


def test_the_stores_are_shown_as_they_stand(guest: Guest) -> None:
    guest.enable_msi(1, data=0x40)
    guest.program(BAR_IMS, 7, 0x77, mask=True)
    guest.raise_ims(7)
    guest.control_msix()
    guest.wire(IrqIndexNumber.MSIX, 1)
    entries = {(entry.store, entry.index): entry for entry in guest.function.stores()}
    assert len(entries) == 32 + 9 + 2048
    msi = entries[Store.MSI, 1]
    assert (msi.address, msi.data, msi.masked, msi.enabled) == (MESSAGE, 0x41, False, True)
    assert not entries[Store.MSI, 2].enabled
    ims = entries[Store.IMS, 7]
    assert (ims.address, ims.data, ims.masked, ims.pending) == (MESSAGE, 0x77, True, True)
    wired, ours = entries[Store.MSIX, 0], entries[Store.MSIX, 1]
    assert (wired.address, wired.data, wired.masked) == (None, None, None)
    assert (ours.address, ours.masked) == (0, True)
