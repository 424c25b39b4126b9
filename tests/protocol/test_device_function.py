"""Identity, events, work queue, resets and hostile accesses of the whole function."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from harness.devices.ims_function.address_map import Area
from harness.devices.ims_function.function import ImsFunction
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.devices.ledger import Fate, FindingKind
from harness.errors import CheckFailed
from harness.pci.access_log import AccessCount
from harness.spec.ims_function import (
    BAR_CONTROL,
    BAR_IMS,
    BAR_MSIX,
    CompletionRecord,
    CompletionStatus,
    Opcode,
    Register,
    WorkDescriptor,
)
from harness.spec.interrupt import Store
from harness.spec.pci import CapabilityId
from harness.spec.vfio import IrqIndexNumber, IrqInfoFlags, RegionFlags, RegionIndex
from tests.protocol.device_guest import MESSAGE, RECORDS, RING, Guest, guest_of, running_guest, soon

FIRE = WorkDescriptor(
    Opcode.INTERRUPT, store=Store.IMS, index=5, cookie=0xC0FFEE, completion=RECORDS
)


@pytest.fixture
def guest() -> Iterator[Guest]:
    threads = threading.active_count()
    with running_guest() as guest:
        guest.program(BAR_IMS, 5, 0x55)
        yield guest
    assert threading.active_count() == threads


# Identity


def test_the_registers_that_name_the_device_are_there(guest: Guest) -> None:
    assert guest.read(Register.ID) == int.from_bytes(b"IMS\0", "little")
    assert guest.read(Register.VERSION) == 0x10000
    assert guest.read(Register.IMS_CAPABILITY) == 2048
    assert guest.client.region_read(RegionIndex.CONFIG, 0, 4) == bytes.fromhex("4d49 0100")


def test_a_mapped_array_says_so_to_guest_and_client() -> None:
    with running_guest(ImsFunctionSpec(ims_mapped=True, ims_entries=64)) as guest:
        assert guest.read(Register.IMS_CAPABILITY) == 1 << 16 | 64
        assert guest.client.region_info(BAR_IMS).flags & RegionFlags.MMAP
        assert list(guest.client.map_region(BAR_IMS)) == [0]


def test_a_trapped_array_cannot_be_mapped(guest: Guest) -> None:
    assert not guest.client.region_info(BAR_IMS).flags & RegionFlags.MMAP
    assert guest.client.map_region(BAR_IMS) == {}


@pytest.mark.parametrize("noresize", [False, True])
def test_only_msix_can_be_told_to_grow(noresize: bool) -> None:
    with running_guest(ImsFunctionSpec(msix_noresize=noresize)) as guest:
        msi, msix = (guest.client.irq_info(n) for n in (IrqIndexNumber.MSI, IrqIndexNumber.MSIX))
        assert (msi.count, msix.count) == (32, 9)
        assert msi.flags & IrqInfoFlags.NORESIZE
        assert bool(msix.flags & IrqInfoFlags.NORESIZE) is noresize
        assert guest.client.irq_info(IrqIndexNumber.INTX).count == 0


# Events


def test_raise_and_wait_returns_the_answered_event(guest: Guest) -> None:
    def handler() -> None:
        guest.next_message()
        guest.handle(Store.IMS, 5, cpu=7)

    thread = threading.Thread(target=handler)
    thread.start()
    event = guest.function.raise_and_wait(Store.IMS, 5, soon("the handler"))
    thread.join()
    assert event.cpu == 7
    guest.function.ledger.assert_quiet()


def test_unanswered_counts_what_is_out(guest: Guest) -> None:
    guest.raise_ims(5)
    assert guest.read(Register.UNANSWERED) == 1
    guest.handle(Store.IMS, 5)
    assert guest.read(Register.UNANSWERED) == 0


def test_an_answer_on_the_wrong_slot_is_named(guest: Guest) -> None:
    event = guest.raise_ims(5)
    guest.answer(Store.IMS, 6, event.sequence)
    (finding,) = guest.function.ledger.findings()
    assert finding.kind is FindingKind.MISDIRECTED
    assert "IMS 6" in finding.text
    assert "on IMS 5" in finding.text


def test_an_interrupt_that_nobody_handles_is_named(guest: Guest) -> None:
    with pytest.raises(CheckFailed, match="not answered"):
        guest.function.raise_and_wait(Store.IMS, 5, soon("a handler", seconds=0.01))
    assert [f.kind for f in guest.function.ledger.findings()] == [FindingKind.LOST]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_answer_in_pieces_is_refused_and_answers_nothing(guest: Guest, size: int) -> None:
    event = guest.raise_ims(5)
    answer = event.sequence.to_bytes(8, "little")
    for offset in range(0, 8, size):
        guest.client.region_write(
            BAR_CONTROL, guest.slot(Store.IMS, 5) + offset, answer[offset : offset + size]
        )
    assert guest.read(Register.REFUSED) == 8 // size
    assert not event.answered


def test_a_burst_keeps_one_event_in_flight_on_each_interrupt(guest: Guest) -> None:
    for index in (5, 6):
        guest.program(BAR_IMS, index, index)
    burst = guest.function.burst(Store.IMS, [5, 6], 101)
    for _ in range(101):
        assert guest.read(Register.UNANSWERED) <= 2
        _, index = guest.next_message()
        guest.handle(Store.IMS, index)
    assert burst.wait(soon("the burst")) > 0
    assert len(burst.latencies) == 101
    guest.function.ledger.assert_quiet()
    assert guest.no_message()


def test_a_burst_that_is_blocked_ends_at_once_and_says_why(guest: Guest) -> None:
    guest.bus_master(False)
    burst = guest.function.burst(Store.IMS, [5], 10)
    with pytest.raises(CheckFailed, match="bus mastering is off"):
        burst.wait(soon("the burst", seconds=60))


def test_a_burst_that_nobody_answers_ends_with_its_deadline(guest: Guest) -> None:
    burst = guest.function.burst(Store.IMS, [5], 10)
    with pytest.raises(CheckFailed, match="0 of 10 answered"):
        burst.wait(soon("the burst", seconds=0.01))


# Work queue


def test_a_descriptor_raises_its_interrupt_and_is_completed(guest: Guest) -> None:
    memory = guest.set_up_queue()
    guest.submit(memory, FIRE)
    assert guest.next_message() == (MESSAGE, 0x55)
    guest.wait_for_head(1)
    assert guest.record(memory) == CompletionRecord(CompletionStatus.SUCCESS, 1, 0xC0FFEE)
    assert guest.handle(Store.IMS, 5) == 1


def test_the_record_names_the_event_before_its_message_is_sent(guest: Guest) -> None:
    memory = guest.set_up_queue()
    seen: list[CompletionRecord] = []
    guest.on_message = lambda: seen.append(guest.record(memory))
    guest.submit(memory, FIRE)
    guest.wait_for_head(1)
    assert seen == [CompletionRecord(CompletionStatus.PENDING, 1, 0xC0FFEE)]


def test_the_ring_wraps_and_every_descriptor_is_done_once_in_order(guest: Guest) -> None:
    memory = guest.set_up_queue(size=4)
    for count in range(1, 11):
        start = (count - 1) % 4 * WorkDescriptor.SIZE
        record = RECORDS + 16 * (count - 1)
        nop = WorkDescriptor(Opcode.NOP, cookie=count, completion=record)
        memory[start : start + WorkDescriptor.SIZE] = nop.pack()
        guest.write(Register.WQ_TAIL, count)
        guest.wait_for_head(count)
    records = [guest.record(memory, number) for number in range(10)]
    assert records == [CompletionRecord(CompletionStatus.SUCCESS, 0, n) for n in range(1, 11)]
    assert guest.read(Register.STATUS) == 1


def test_a_descriptor_without_a_completion_address_is_done_silently(guest: Guest) -> None:
    memory = guest.set_up_queue()
    guest.submit(memory, replace(FIRE, completion=0))
    guest.wait_for_head(1)
    assert guest.next_message() == (MESSAGE, 0x55)


@pytest.mark.parametrize(
    ("descriptor", "status"),
    [
        (replace(FIRE, opcode=2), CompletionStatus.BAD_OPCODE),
        (replace(FIRE, store=0), CompletionStatus.BAD_HANDLE),
        (replace(FIRE, store=4), CompletionStatus.BAD_HANDLE),
        (replace(FIRE, store=Store.MSIX, index=9), CompletionStatus.BAD_HANDLE),
        (replace(FIRE, index=2048), CompletionStatus.BAD_HANDLE),
        (replace(FIRE, flags=1), CompletionStatus.BAD_RESERVED),
        (replace(FIRE, reserved=1), CompletionStatus.BAD_RESERVED),
        (replace(FIRE, store=Store.MSI, index=0), CompletionStatus.DISABLED),
        (replace(FIRE, index=6), CompletionStatus.BLOCKED),  # unmasked below, with no message
        (replace(FIRE, index=7), CompletionStatus.SUCCESS),  # masked: pending
    ],
)
def test_each_descriptor_ends_with_the_status_it_deserves_and_the_queue_goes_on(
    guest: Guest, descriptor: WorkDescriptor, status: CompletionStatus
) -> None:
    guest.mask(BAR_IMS, 6, False)
    memory = guest.set_up_queue()
    nop = WorkDescriptor(Opcode.NOP, cookie=1, completion=RECORDS + 16)
    guest.submit(memory, descriptor, nop)
    guest.wait_for_head(2)
    assert guest.record(memory).status == status
    assert guest.record(memory, 1).status == CompletionStatus.SUCCESS
    assert guest.no_message()


def test_a_message_that_the_client_refuses_completes_as_blocked(guest: Guest) -> None:
    guest.refused[MESSAGE] = 14
    memory = guest.set_up_queue()
    guest.submit(memory, FIRE)
    guest.wait_for_head(1)
    assert guest.record(memory).status == CompletionStatus.BLOCKED


@pytest.mark.parametrize("size", [0, 3, 2048, 0xFFFFFFFF])
def test_a_size_that_is_none_stops_the_queue_at_once(guest: Guest, size: int) -> None:
    guest.set_up_queue(size=size)
    assert guest.read(Register.STATUS) == 2


def test_a_ring_in_no_memory_stops_the_queue(guest: Guest) -> None:
    memory = guest.set_up_queue(base=0xDEAD_0000_0000)
    guest.submit(memory, FIRE)
    guest.wait_for_error()


def test_a_completion_record_in_no_memory_stops_the_queue(guest: Guest) -> None:
    memory = guest.set_up_queue()
    guest.submit(memory, replace(FIRE, completion=0xDEAD_0000_0000))
    guest.wait_for_error()
    assert guest.read(Register.WQ_HEAD) == 0


def test_more_descriptors_than_the_ring_holds_stop_the_queue(guest: Guest) -> None:
    guest.set_up_queue(size=4)
    guest.write(Register.WQ_TAIL, 5)
    assert guest.read(Register.STATUS) == 2
    assert guest.no_message()


def test_a_queue_without_bus_mastering_stops(guest: Guest) -> None:
    memory = guest.set_up_queue()
    guest.bus_master(False)
    guest.submit(memory, FIRE)
    guest.wait_for_error()


def test_a_queue_that_stopped_works_again_after_disable_and_enable(guest: Guest) -> None:
    memory = guest.set_up_queue(size=4)
    guest.write(Register.WQ_TAIL, 5)
    guest.write(Register.CONTROL, 0)
    assert guest.read(Register.STATUS) == 0
    guest.write(Register.CONTROL, 1)
    guest.submit(memory, FIRE)
    assert guest.next_message() == (MESSAGE, 0x55)


def test_ring_registers_are_locked_and_the_doorbell_dead_at_the_wrong_time(guest: Guest) -> None:
    guest.write(Register.WQ_TAIL, 1)
    assert guest.read(Register.WQ_TAIL) == 0
    guest.set_up_queue(size=8)
    guest.write(Register.WQ_SIZE, 4)
    guest.write(Register.WQ_BASE_LO, 0)
    assert guest.read(Register.WQ_SIZE) == 8
    assert guest.read(Register.WQ_BASE_LO) == RING
    assert guest.read(Register.REFUSED) == 3


def test_the_low_bits_of_the_ring_address_stay_zero(guest: Guest) -> None:
    guest.write(Register.WQ_BASE_LO, 0xFFFFFFFF)
    assert guest.read(Register.WQ_BASE_LO) == 0xFFFFFFC0


# Resets


def dirty(guest: Guest) -> None:
    """Change every part of the function's state."""
    guest.enable_msi(1)
    guest.control_msix()
    guest.program(BAR_MSIX, 0, 0x11)
    guest.program(BAR_IMS, 5, 0x55)
    guest.raise_ims(5)
    guest.raise_ims(4)
    guest.set_up_queue()
    guest.write(Register.ID, 0)


def test_a_device_reset_returns_everything_to_power_on(guest: Guest) -> None:
    dirty(guest)
    guest.client.reset()
    with ImsFunction() as fresh:
        config = guest.client.region_read(RegionIndex.CONFIG, 0, 4096)
        assert config == fresh.config.read(0, 4096)
        assert guest.function.stores() == fresh.stores()
    for register in (Register.STATUS, Register.CONTROL, Register.WQ_SIZE, Register.REFUSED):
        assert guest.read(register) == 0
    guest.function.ledger.assert_quiet()


def test_control_reset_leaves_config_space_and_the_pci_stores_alone(guest: Guest) -> None:
    dirty(guest)
    config = guest.client.region_read(RegionIndex.CONFIG, 0, 256)
    guest.write(Register.CONTROL, 2)
    assert guest.client.region_read(RegionIndex.CONFIG, 0, 256) == config
    assert guest.read(Register.CONTROL) == guest.read(Register.REFUSED) == 0
    assert guest.read(Register.UNANSWERED) == guest.read(Register.IMS_PENDING) == 0
    assert guest.raise_ims(5).fate is Fate.PENDING
    guest.function.raise_interrupt(Store.MSIX, 0)
    guest.next_message()
    assert guest.next_message() == (MESSAGE, 0x11)


def test_a_function_level_reset_is_a_reset(guest: Guest) -> None:
    dirty(guest)
    control = guest.capability(CapabilityId.EXPRESS) + 8
    guest.write_config(control, 2, 0x8000 | guest.read_config(control, 2))
    assert guest.read_config(4, 2) == 0
    assert guest.read_config(control, 2) == 0x2810
    assert all(entry.masked for entry in guest.function.stores() if entry.store is Store.IMS)


def test_a_new_client_finds_the_function_as_after_power_on() -> None:
    with ImsFunction() as function:
        power_on = function.stores()
        with guest_of(function) as guest:
            dirty(guest)
        left = function.stores()  # kept to be looked at
        assert left != power_on
        outcomes = {event.fate for event in function.ledger.events()}
        assert outcomes == {Fate.DROPPED}
        with guest_of(function):
            assert function.stores() == power_on


# Hostile guests


@pytest.mark.parametrize(
    ("region", "offset", "size"),
    [
        (BAR_CONTROL, Register.ID, 1),
        (BAR_CONTROL, Register.ID, 2),
        (BAR_CONTROL, Register.ID, 8),
        (BAR_CONTROL, Register.ID + 2, 4),
        (BAR_CONTROL, 0x30, 4),
        (BAR_CONTROL, 0x3FFC, 4),
        (BAR_CONTROL, Register.EVENT_MSI + 0x100, 8),
        (BAR_CONTROL, Register.EVENT_IMS + 4, 4),
        (BAR_CONTROL, Register.EVENT_IMS, 2),
        (BAR_MSIX, 16 * 9, 4),
        (BAR_MSIX, 0, 2),
        (BAR_MSIX, 0x8008, 8),
        (BAR_IMS, 0, 1),
        (BAR_IMS, 4, 8),
    ],
)
def test_an_access_that_the_map_does_not_allow_reads_zero_and_is_counted(
    guest: Guest, region: int, offset: int, size: int
) -> None:
    before = guest.function.refusals.count
    assert guest.client.region_read(region, offset, size) == bytes(size)
    guest.client.region_write(region, offset, b"\xff" * size)
    assert guest.client.region_read(region, offset, size) == bytes(size)
    assert guest.function.refusals.count == before + 3


@pytest.mark.parametrize(
    "register", [Register.ID, Register.STATUS, Register.WQ_HEAD, Register.IMS_PENDING]
)
def test_writing_a_read_only_register_changes_nothing_and_is_counted(
    guest: Guest, register: Register
) -> None:
    before = guest.read(register)
    guest.write(register, ~before & 0xFFFFFFFF)
    assert guest.read(register) == before
    assert guest.read(Register.REFUSED) == 1


def test_writes_to_the_pending_bits_are_ignored_and_counted(guest: Guest) -> None:
    guest.client.region_write(BAR_MSIX, 0x8000, b"\xff" * 8)
    assert guest.client.region_read(BAR_MSIX, 0x8000, 8) == bytes(8)
    assert guest.read(Register.REFUSED) == 1


@pytest.mark.parametrize("mapped", [False, True])
def test_nothing_falls_over_under_random_accesses(mapped: bool) -> None:
    chance = random.Random(20261121)
    sizes = {BAR_CONTROL: 0x10000, BAR_MSIX: 0x10000, BAR_IMS: 0x8000, RegionIndex.CONFIG: 4096}
    with running_guest(ImsFunctionSpec(ims_mapped=mapped, msix_vectors=2048)) as guest:
        memory = guest.set_up_queue()
        memory[:] = chance.randbytes(len(memory))
        for _ in range(3000):
            region = chance.choice(list(sizes))
            count = chance.choice([1, 2, 3, 4, 4, 4, 8, 8, 8, 64])
            offset = chance.randrange(sizes[region] - count)
            if chance.random() < 0.8:
                offset &= -count
            if chance.random() < 0.3:
                offset &= 0x3F
            if chance.random() < 0.3:
                guest.client.region_read(region, offset, count)
            else:
                guest.client.region_write(region, offset, chance.randbytes(count))
            if chance.random() < 0.2:
                store = chance.choice([Store.MSI, Store.MSIX, Store.IMS])
                guest.function.raise_interrupt(store, chance.randrange(32))
        assert guest.read(Register.ID) == 0x534D49
        assert guest.function.refusals.count > 0


# The access log


def test_each_trapped_access_is_counted_in_its_area(guest: Guest) -> None:
    mark = guest.function.accesses.mark()
    guest.enable_msi(0)
    guest.control_msix()
    guest.program(BAR_MSIX, 0, 1)
    guest.program(BAR_IMS, 0, 1)
    guest.client.region_read(BAR_IMS, 0, 4)
    guest.handle(Store.IMS, 0)
    counts = guest.function.accesses.counts_since(mark)
    assert {area: count for area, count in counts.items() if count.total} == {
        Area.MSI: AccessCount(writes=3),
        Area.MSIX_CONTROL: AccessCount(writes=1),
        Area.MSIX_TABLE: AccessCount(writes=2),
        Area.IMS: AccessCount(reads=1, writes=2),
        Area.EVENTS: AccessCount(reads=1, writes=1),
    }
