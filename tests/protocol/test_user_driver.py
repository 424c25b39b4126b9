"""Row D12: a driver in user space, with no guest, holds pairs that are linked to eventfds."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.devices.ims_function.user_driven import IMS_IRQ, PAIRS_REGION, UserDrivenFunction
from harness.devices.ledger import Fate
from harness.host.deadline import Deadline, wait_until
from harness.host.process import running
from harness.hypervisor.host import Blocked, Host
from harness.hypervisor.user_driver import UserDriver
from harness.spec.interrupt import Store
from harness.spec.msi import Message, MessageEntry
from harness.vfio_user.server import device_server
from tests.protocol.device_guest import Guest, guest_of
from tests.protocol.user_driver import READY, pair_of, store

pytestmark = pytest.mark.capability("D12")

HANDLES = 4
NULL = bytes(MessageEntry.SIZE)


@pytest.fixture
def host() -> Host:
    return Host(HANDLES, time.monotonic)


@pytest.fixture
def driver(host: Host) -> Iterator[Guest]:
    """A driver in this process; its function's pairs come from ``host``."""
    with UserDrivenFunction(UserDriver(host)) as function, guest_of(function) as driver:
        yield driver


def take(driver: Guest, count: int) -> None:
    """Take pairs, and put them into the array."""
    driver.wire(IMS_IRQ, count)
    for index in range(count):
        store(driver.client, index, pair_of(driver.client, index))


def test_a_pair_is_there_once_its_eventfd_is_and_its_message_ends_in_it(driver: Guest) -> None:
    assert pair_of(driver.client, 1) == NULL
    take(driver, 2)
    for index in (1, 0):
        event = driver.raise_ims(index)
        assert event.fate is Fate.SENT
        assert driver.signals(index) == 1
    assert driver.no_message()


def test_a_host_that_has_no_more_says_so_and_nothing_is_held(driver: Guest, host: Host) -> None:
    with pytest.raises(OSError, match="No space left") as refused:
        driver.wire(IMS_IRQ, HANDLES + 1)
    assert refused.value.errno == errno.ENOSPC
    assert host.handles.free == HANDLES
    take(driver, HANDLES)
    assert host.handles.free == 0


def test_a_pair_dies_with_its_eventfd(driver: Guest, host: Host) -> None:
    take(driver, 2)
    driver.client.wire_irqs(IMS_IRQ, 0, [None])
    assert pair_of(driver.client, 0) == NULL
    assert driver.raise_ims(0).fate is Fate.BLOCKED
    assert host.blocked == {Blocked.NO_HANDLE: 1}
    assert driver.raise_ims(1).fate is Fate.SENT
    driver.client.disable_irqs(IMS_IRQ)
    assert host.handles.free == HANDLES


def test_what_is_no_pair_of_its_own_signals_nothing(driver: Guest, host: Host) -> None:
    other = UserDriver(host)
    other.acquire(0)
    take(driver, 1)
    foreign = other.message(0)
    for forged in (foreign, Message(0xFEE00000, 0x41), Message(foreign.address + 2, 0)):
        driver.program(4, 0, forged.data, address=forged.address)
        assert driver.raise_ims(0).fate is Fate.BLOCKED
    assert driver.signals(0, within=0.05) == 0


def test_the_pairs_are_read_only_and_read_entry_by_entry(driver: Guest) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        driver.client.region_write(PAIRS_REGION, 0, NULL)
    with pytest.raises(OSError, match="Invalid argument"):
        driver.client.region_read(PAIRS_REGION, 8, 16)


def test_a_driver_that_is_killed_loses_its_pairs(host: Host, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    log = tmp_path / "driver"
    argv = [sys.executable, "-m", "tests.protocol.user_driver", str(theirs.fileno()), "3"]

    def said() -> list[str]:
        return log.read_text().splitlines()

    with (
        UserDrivenFunction(UserDriver(host)) as function,
        device_server(function, ours) as server,
        running(argv, name="driver", log=log, pass_fds=[theirs.fileno()]) as process,
    ):
        theirs.close()
        wait_until(lambda: READY in said(), Deadline(30, "the driver"))
        pair = function.driver.message(1)
        came = [READY]
        for index in ("2", "0", "1"):
            function.raise_interrupt(Store.IMS, int(index))
            came.append(index)
            wait_until(lambda: said() == came, Deadline(10, "its eventfd"))
        os.kill(process.pid, signal.SIGKILL)
        process.wait(Deadline(10, "its end"))
        server.wait_until_gone(Deadline(10, "the end of its connection"))
        assert (function.driver.live, host.handles.free) == (0, HANDLES)
        function.driver.signal(pair)
        assert host.blocked == {Blocked.NO_HANDLE: 1}
