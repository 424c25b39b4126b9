"""Who is blamed for an interrupt that nobody answered: whatever ended first, and then the guest."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from harness.devices.ims_function.function import ImsFunction
from harness.devices.ledger import Event
from harness.errors import CheckFailed, GuestPanic, ProtocolError, QemuExited, Verdict
from harness.events.stream import Stream
from harness.host.deadline import Deadline
from harness.qemu.vitals import Vitals
from harness.report.verdict import verdict_of
from harness.spec.interrupt import Store
from harness.testbed.served import check_served
from harness.vfio_user.client import Client
from harness.vfio_user.server import device_server
from tests.protocol.device_guest import Guest

NEVER = 0.3
"""Seconds after which an interrupt counts as not answered."""


@dataclass
class Setup:
    """A function whose guest takes a message and does not answer; nothing stands in for a part."""

    function: ImsFunction
    client: Client
    vitals: Vitals
    event: Event

    def wait(self) -> None:
        self.function.ledger.wait_answered(self.event, Deadline(NEVER, "the answer"))

    def wait_long(self) -> None:
        self.function.ledger.wait_answered(self.event, Deadline(30, "the answer"))

    def wait_for_burst(self) -> None:
        self.function.burst(Store.MSI, [0], 2).wait(Deadline(30, "the burst"))

    def quiet(self) -> None:
        self.function.ledger.assert_quiet()


@pytest.fixture
def setup() -> Iterator[Setup]:
    ours, theirs = socket.socketpair()
    function, vitals = ImsFunction(), Vitals()
    try:
        with (
            function,
            device_server(function, theirs) as server,
            Client(ours, dma_write=lambda address, data: None) as client,
        ):
            guest = Guest(function, client)
            guest.bus_master()
            guest.enable_msi(0)
            function.ledger.check_peers = lambda: check_served(server, vitals)
            event = function.raise_interrupt(Store.MSI, 0)
            yield Setup(function, client, vitals, event)
    except ZeroDivisionError:
        pass  # the device's own, which its server raises at its end as well


WAITS = pytest.mark.parametrize("wait", [Setup.wait, Setup.quiet])


@WAITS
def test_a_guest_that_does_not_answer_is_blamed(
    setup: Setup, wait: Callable[[Setup], None]
) -> None:
    with pytest.raises(CheckFailed):
        wait(setup)


@WAITS
@pytest.mark.parametrize("lost", [QemuExited("it crashed"), GuestPanic("it panicked")])
def test_a_lost_machine_is_blamed_first(
    setup: Setup, wait: Callable[[Setup], None], lost: QemuExited | GuestPanic
) -> None:
    setup.vitals.lose(lost)
    with pytest.raises(type(lost), match=lost.message):
        wait(setup)


@pytest.mark.parametrize("wait", [Setup.wait_long, Setup.wait_for_burst])
def test_a_wait_ends_with_the_machine_and_not_with_its_time(
    setup: Setup, wait: Callable[[Setup], None]
) -> None:
    stream = Stream(lost=lambda: setup.vitals.error)
    setup.function.writer.join(stream, "function0")
    lost = threading.Timer(0.1, setup.vitals.lose, [QemuExited("it crashed")])
    lost.start()
    with setup.vitals.on_loss(stream.wake), pytest.raises(QemuExited) as raised:
        wait(setup)
    assert raised.value.__context__ is None, "found when the time was over"
    lost.join()


def test_qemus_end_is_blamed_that_is_known_after_its_connection_has_closed(setup: Setup) -> None:
    setup.client.close()
    known = threading.Timer(0.2, setup.vitals.lose, [QemuExited("signal 9")])
    known.start()
    with pytest.raises(QemuExited):
        setup.wait()
    known.join()


def test_a_connection_that_is_lost_alone_is_a_failure_of_the_harness(setup: Setup) -> None:
    setup.client.close()
    with pytest.raises(ProtocolError, match="QEMU has left the device") as raised:
        setup.wait()
    assert verdict_of(raised.value, about_guest=True) is Verdict.HARNESS_FAILURE


@WAITS
def test_a_device_that_fails_is_blamed(
    setup: Setup, wait: Callable[[Setup], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        return bytes(1 // 0)

    monkeypatch.setattr(setup.function, "region_read", broken)
    with pytest.raises(OSError, match="Input/output error"):
        setup.client.region_read(0, 0, 4)
    with pytest.raises(ZeroDivisionError):
        wait(setup)
