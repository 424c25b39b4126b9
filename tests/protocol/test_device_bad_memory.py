"""A work queue over memory that answers badly: it stops with its error, and nothing else does."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from harness.devices.ims_function.function import ImsFunction
from harness.devices.ledger import Fate
from harness.events.limited_log import BURST
from harness.spec.ims_function import BAR_IMS, Opcode, Register, WorkDescriptor
from harness.spec.interrupt import Store
from harness.spec.vfio import Command
from harness.vfio_user import requests
from harness.vfio_user.client import Client
from harness.vfio_user.client_memory import DmaWrite
from harness.vfio_user.wire import DmaAccess, WireMessage
from tests.protocol.device_guest import MESSAGE, RECORDS, Guest, guest_of, soon

FIRE = WorkDescriptor(
    Opcode.INTERRUPT, store=Store.IMS, index=5, cookie=0xC0FFEE, completion=RECORDS
)
NOP = WorkDescriptor(Opcode.NOP)
TOP = 1 << 64


class BadClient(Client):
    """Answers DMA_READ with as many bytes of what it should say as ``length``; None: not at all."""

    length: int | None = DmaAccess.FORMAT.size + WorkDescriptor.SIZE
    before_read: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, connection: socket.socket, *, dma_write: DmaWrite | None = None):
        super().__init__(connection, dma_write=dma_write)
        self._whole, self._answer = self._answer, self._cut

    def _serve(self, message: WireMessage) -> None:
        if message.command == Command.DMA_READ and self.length is None:
            return
        super()._serve(message)

    def _cut(self, message: WireMessage) -> bytes:
        if message.command == Command.DMA_READ:
            self.before_read()
        answer = self._whole(message)
        return answer[: self.length] if message.command == Command.DMA_READ else answer


@pytest.fixture
def guest() -> Iterator[Guest]:
    """A guest of a server that ends well, and leaves no thread behind."""
    threads = threading.active_count()
    with ImsFunction() as function, guest_of(function, BadClient) as guest:
        guest.program(BAR_IMS, 5, 0x55)
        yield guest
    assert threading.active_count() == threads


def client_of(guest: Guest) -> BadClient:
    assert isinstance(guest.client, BadClient)
    return guest.client


def works_again(guest: Guest) -> None:
    """Whether the queue runs over good memory once it was disabled; the record is read by hand."""
    guest.write(Register.CONTROL, 0)
    assert guest.read(Register.STATUS) == 0
    client_of(guest).length = BadClient.length
    guest.client.dma_unmap_all()
    guest.submit(guest.set_up_queue(), FIRE)
    assert guest.next_message() == (MESSAGE, 0x55)
    guest.wait_for_head(1)
    guest.handle(Store.IMS, 5)
    guest.function.ledger.assert_quiet()


@pytest.mark.parametrize("length", [0, 8, DmaAccess.FORMAT.size, 47])
def test_an_answer_that_is_too_short_stops_the_queue(guest: Guest, length: int) -> None:
    memory = guest.set_up_queue()
    client_of(guest).length = length
    guest.submit(memory, FIRE)
    guest.wait_for_error()
    works_again(guest)


def test_an_answer_that_never_comes_stops_the_queue(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "ANSWER_SECONDS", 0.05)
    memory = guest.set_up_queue()
    client_of(guest).length = None
    guest.submit(memory, FIRE)
    guest.wait_for_error()
    works_again(guest)


def test_a_client_that_leaves_a_read_unanswered_and_goes_ends_the_server_well(
    guest: Guest,
) -> None:
    memory = guest.set_up_queue()
    client_of(guest).length = None
    guest.submit(memory, FIRE)
    assert guest.read(Register.STATUS) == 1


def test_a_ring_that_wraps_around_the_address_space_stops_the_queue(guest: Guest) -> None:
    memory = bytearray(0x1000)
    guest.client.map_served(TOP - 0x1000, memory)
    guest.write(Register.WQ_SIZE, 8)
    guest.write(Register.WQ_BASE_LO, 0xFFFF_FFC0)
    guest.write(Register.WQ_BASE_HI, 0xFFFF_FFFF)
    guest.write(Register.CONTROL, 1)
    memory[-64:] = NOP.pack() * 2
    guest.write(Register.WQ_TAIL, 3)
    guest.wait_for_error()
    assert guest.read(Register.WQ_HEAD) == 2
    works_again(guest)


@pytest.mark.parametrize("opcode", [Opcode.NOP, Opcode.INTERRUPT])
def test_a_record_that_leaves_the_address_space_stops_the_queue(guest: Guest, opcode: int) -> None:
    memory = guest.set_up_queue()
    guest.submit(memory, replace(FIRE, opcode=opcode, completion=TOP - 8))
    guest.wait_for_error()
    works_again(guest)


def test_an_interrupt_whose_record_cannot_be_written_is_dropped_and_says_why(guest: Guest) -> None:
    memory = guest.set_up_queue()
    guest.submit(memory, replace(FIRE, completion=0xDEAD_0000_0000))
    guest.wait_for_error()
    (event,) = guest.function.ledger.events()
    assert event.fate is Fate.DROPPED
    assert "completion record" in event.reason
    guest.function.ledger.assert_quiet()
    assert guest.no_message()


def test_a_descriptor_that_a_reset_overtakes_raises_nothing(guest: Guest) -> None:
    memory = guest.set_up_queue()
    client_of(guest).before_read = guest.function.reset
    guest.submit(memory, FIRE)
    deadline = soon("the end of the descriptor")
    while guest.read(Register.STATUS):
        deadline.check()
    assert guest.function.ledger.events() == []
    assert not any(entry.pending for entry in guest.function.stores())


def test_a_guest_that_stops_its_queue_over_and_over_does_not_fill_the_log(
    guest: Guest, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3 * BURST):
            guest.write(Register.CONTROL, 1)
            guest.write(Register.CONTROL, 0)
    stopped = [text for text in caplog.messages if "the work queue stopped" in text]
    assert len(stopped) == BURST
