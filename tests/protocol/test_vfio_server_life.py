"""How a server begins and ends: clients that come, go, are killed or do not read."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from harness.errors import DeadlineExpired
from harness.events.stream import Writer
from harness.host.deadline import Deadline, wait_until
from harness.host.process import running
from harness.spec.vfio import Command
from harness.vfio_user import wire
from harness.vfio_user.client import Client
from harness.vfio_user.server import DeviceServer, device_server
from harness.vfio_user.transcript import Exchanged
from harness.vfio_user.wire import HEADER, WireMessage
from tests.protocol.scratch_device import BROKEN, MEMORY, ScratchDevice
from tests.protocol.vfio_checks import ending_with, eventfds, refused, signals, soon


def test_a_client_that_disconnects_detaches_the_device_and_ends_the_server(
    device: ScratchDevice, server: DeviceServer, ends: tuple[socket.socket, socket.socket]
) -> None:
    with Client(ends[1]):
        pass
    server.wait_until_gone(soon("the server's end"))
    assert device.log == [("attached",), ("detached",)]


def test_a_client_that_never_says_a_word_attaches_nothing(
    device: ScratchDevice, server: DeviceServer, ends: tuple[socket.socket, socket.socket]
) -> None:
    ends[1].close()
    server.wait_until_gone(soon("the server's end"))
    assert device.log == []


def test_waiting_for_a_client_that_stays_is_bounded(server: DeviceServer, client: Client) -> None:
    with pytest.raises(DeadlineExpired, match="nobody left"):
        server.wait_until_gone(Deadline(0.01, "nobody left"))


def test_what_a_client_gave_is_released_when_it_goes(
    server: DeviceServer, ends: tuple[socket.socket, socket.socket]
) -> None:
    with Client(ends[1]) as client, eventfds(4) as fds:
        client.wire_irqs(1, 0, fds)
        client.map_shared(0, 1 << 20)
        assert server.session is not None
        session = server.session
    server.wait_until_gone(soon("the server's end"))
    assert session.memory.mappings == ()
    assert not session.interrupts.is_wired(1, 0)


def test_a_device_can_be_served_again_and_keeps_its_state(device: ScratchDevice) -> None:
    for expected in (b"\0", b"\1"):
        server_end, client_end = socket.socketpair()
        with client_end, device_server(device, server_end), Client(client_end) as client:
            assert client.region_read(MEMORY, 0, 1) == expected
            client.region_write(MEMORY, 0, b"\1")


def test_the_first_client_of_a_listening_socket_is_served_and_the_second_refused(
    device: ScratchDevice, tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with (
            device_server(device, listener),
            socket.socket(socket.AF_UNIX) as first,
            socket.socket(socket.AF_UNIX) as second,
        ):
            first.connect(path)
            with Client(first) as client:
                client.device_info()
                with pytest.raises(ConnectionRefusedError):
                    second.connect(path)


def test_a_server_that_nobody_connects_to_can_be_ended(
    device: ScratchDevice, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with device_server(device, listener) as server:
            pass
        assert server.session is None


def test_leaving_the_server_cuts_its_client_off(
    device: ScratchDevice, ends: tuple[socket.socket, socket.socket]
) -> None:
    with device_server(device, ends[0]):
        client = Client(ends[1])
    with client, pytest.raises(ConnectionError):
        client.device_info()


def test_a_failure_of_the_device_is_an_eio_reply_and_raised_at_the_end(
    device: ScratchDevice, ends: tuple[socket.socket, socket.socket]
) -> None:
    with (
        ending_with(ZeroDivisionError, match="a bug in the device"),
        device_server(device, ends[0]) as server,
        Client(ends[1]) as client,
    ):
        with refused(errno.EIO):
            client.region_read(MEMORY, BROKEN, 1)
        client.device_info()
        with pytest.raises(ZeroDivisionError):
            server.check()


def test_a_failure_of_the_device_comes_before_the_error_that_it_led_to(
    device: ScratchDevice, ends: tuple[socket.socket, socket.socket]
) -> None:
    with (
        ending_with(ZeroDivisionError) as caught,
        device_server(device, ends[0]),
        Client(ends[1]) as client,
    ):
        client.region_write(MEMORY, BROKEN, b"\0", posted=True)
        client.device_info()
        int("what the test noticed")
    assert isinstance(caught.value.__context__, ValueError)


def test_a_failure_of_deferred_work_is_raised_at_the_end_and_later_work_is_done(
    device: ScratchDevice, ends: tuple[socket.socket, socket.socket]
) -> None:
    done = threading.Event()
    with (
        ending_with(ZeroDivisionError),
        device_server(device, ends[0]),
        Client(ends[1]),
    ):
        assert device.bus is not None
        device.bus.defer(lambda: device._special(BROKEN))
        device.bus.defer(done.set)
        assert done.wait(5)


def test_deferred_work_is_done_in_order(client: Client, device: ScratchDevice) -> None:
    order: list[int] = []
    last = threading.Event()
    assert device.bus is not None
    for number in range(100):
        device.bus.defer(lambda number=number: order.append(number))  # type: ignore[misc]
    device.bus.defer(last.set)
    assert last.wait(5)
    assert order == list(range(100))


CLIENT = """
import os, socket, sys, time
from harness.vfio_user.client import Client
client = Client(socket.socket(fileno=int(sys.argv[1])))
client.map_shared(0, 1 << 20)
fd = os.eventfd(0)
client.wire_irqs(1, 0, [fd])
client.region_write(0, 0, b"!")
while True:
    client.region_write(0, 8, bytes(4), posted=True)
"""


def test_a_client_that_is_killed_leaves_nothing(device: ScratchDevice, tmp_path: Path) -> None:
    server_end, client_end = socket.socketpair()
    with device_server(device, server_end) as server:
        argv = [sys.executable, "-c", CLIENT, str(client_end.fileno())]
        log = tmp_path / "log"
        with running(argv, name="client", log=log, pass_fds=[client_end.fileno()]) as process:
            client_end.close()
            wait_until(lambda: device.memory[0] == ord("!"), soon("the client's write", 20))
            process.signal(signal.SIGKILL)
            server.wait_until_gone(soon("the server's end"))
    assert device.log[-1] == ("detached",)
    assert log.read_text() == ""


def test_a_client_that_does_not_read_holds_nobody_up(
    device: ScratchDevice, server: DeviceServer, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours = ends[1]
    ours.settimeout(10)
    asked = 400
    read = WireMessage(1, Command.REGION_READ, 0, wire.RegionAccess(0, MEMORY, 4096).pack()).pack()
    ours.sendall(WireMessage(0, Command.VERSION, 0, wire.Version(0, 0).pack()).pack())
    for _ in range(asked):  # 1.6 MB of replies: more than a socket holds
        ours.sendall(read)
    done = WireMessage(
        2, Command.REGION_WRITE, 0x10, wire.RegionAccess(8, MEMORY, 1).pack() + b"\1"
    )
    ours.sendall(done.pack())
    wait_until(lambda: device.memory[8] == 1, soon("the write behind the reads"))
    expected = 20 + asked * (HEADER.size + 16 + 4096)
    received = 0
    while received < expected:
        received += len(ours.recv(1 << 20))
    assert received == expected


def test_a_client_that_never_reads_is_cut_off(
    device: ScratchDevice,
    server: DeviceServer,
    ends: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.vfio_user.channel.MAX_BACKLOG", 1 << 20)
    read = WireMessage(1, Command.REGION_READ, 0, wire.RegionAccess(0, MEMORY, 4096).pack()).pack()
    ends[1].settimeout(5)
    ends[1].sendall(WireMessage(0, Command.VERSION, 0, wire.Version(0, 0).pack()).pack())
    with ending_with(ConnectionError):
        for _ in range(2000):
            ends[1].sendall(read)
    server.wait_until_gone(soon("the server's end"))


def test_the_stream_has_every_message_decoded(
    device: ScratchDevice, ends: tuple[socket.socket, socket.socket]
) -> None:
    writer = Writer("scratch")
    with device_server(device, ends[0], writer=writer), Client(ends[1]) as client:
        client.region_write(MEMORY, 0x20, b"\xab\xcd")
        with refused(errno.EINVAL):
            client.region_read(9, 0, 1)
    passed = writer.stream.of(Exchanged, source="scratch")
    assert [str(message) for message in passed][2:] == [
        "<- 0001 REGION_WRITE offset=0x20 region=0 count=2 data=abcd",
        "-> 0001 REGION_WRITE reply offset=0x20 region=0 count=2",
        "<- 0002 REGION_READ offset=0x0 region=9 count=1",
        "-> 0002 REGION_READ reply error=EINVAL",
    ]


def test_the_log_shows_messages_at_debug_level(
    device: ScratchDevice,
    ends: tuple[socket.socket, socket.socket],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="harness.vfio_user.transcript")
    with device_server(device, ends[0]), Client(ends[1]) as client:
        client.reset()
    assert "<- 0001 DEVICE_RESET" in caplog.messages


def test_an_interrupt_may_come_from_any_thread(client: Client, device: ScratchDevice) -> None:
    bus = device.bus
    assert bus is not None
    with eventfds(1) as (fd,):
        client.wire_irqs(1, 0, [fd])
        threads = [
            threading.Thread(target=lambda: [bus.trigger_irq(1, 0) for _ in range(100)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert signals(fd) == 400


def test_a_client_whose_callback_is_wrong_says_so_at_its_end(
    device: ScratchDevice, server: DeviceServer, ends: tuple[socket.socket, socket.socket]
) -> None:
    def wrong(address: int, data: bytes) -> None:
        raise ZeroDivisionError("a bug in the callback")

    with (
        ending_with(ZeroDivisionError, match="a bug in the callback"),
        Client(ends[1], dma_write=wrong),
    ):
        assert device.bus is not None
        with refused(errno.EIO):
            device.bus.send_message(0, 0).result(5)
