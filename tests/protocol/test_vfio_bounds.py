"""What a client can make the server keep is bounded in bytes and in descriptors."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
import tracemalloc
from collections.abc import Iterator

import pytest

from harness.events import limited_log
from harness.events.limited_log import LimitedLog
from harness.events.stream import Writer
from harness.spec.vfio import Command, MessageFlags
from harness.vfio_user import channel as channel_module
from harness.vfio_user import wire
from harness.vfio_user.channel import Channel
from harness.vfio_user.client import Client
from harness.vfio_user.server import DeviceServer, device_server
from harness.vfio_user.transcript import Exchanged
from harness.vfio_user.wire import WireMessage
from tests.protocol.conftest import open_files
from tests.protocol.scratch_device import BROKEN, MEMORY, ScratchDevice
from tests.protocol.vfio_checks import ending_with, eventfds, refused, soon

MEGABYTE = 1 << 20


@pytest.fixture
def channel(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Channel]:
    monkeypatch.setattr(channel_module, "MAX_BACKLOG", MEGABYTE)
    with contextlib.closing(Channel(ends[0], never_block=True)) as channel:
        yield channel


@contextlib.contextmanager
def allocating(limit: int) -> Iterator[None]:
    """Assert that no more bytes than this are held at any time in here."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < limit


def writers() -> int:
    return sum(thread.name == "vfio-user writer" for thread in threading.enumerate())


@pytest.mark.parametrize("size", [0, 100, 5000, 100_000])
def test_a_backlog_of_messages_of_any_size_takes_little_more_than_its_bytes(
    channel: Channel, size: int
) -> None:
    message = WireMessage(1, 9, 0, bytes(size))
    with allocating(2_500_000), ending_with(ConnectionAbortedError, "unread"):
        for _ in range(1_000_000):
            channel.send(message)


def test_what_a_peer_left_unread_is_dropped_when_it_is_cut_off(channel: Channel) -> None:
    with ending_with(ConnectionAbortedError):
        for _ in range(10_000):
            channel.send(WireMessage(1, 9, 0, bytes(5000)))
    with ending_with(ConnectionResetError):
        channel.send(WireMessage(1, 9))
    assert not channel._backlog
    channel.close()
    assert writers() == 0


def test_small_messages_that_wait_arrive_whole_and_in_order(
    channel: Channel, ends: tuple[socket.socket, socket.socket]
) -> None:
    sent = b""
    for number in range(3000):
        message = WireMessage(number, 9, 0, bytes(number % 700))
        sent += message.pack()
        channel.send(message)
    ends[1].settimeout(5)
    received = b""
    while len(received) < len(sent):
        received += ends[1].recv(1 << 20)
    assert received == sent


def test_descriptors_that_wait_are_bounded_and_closed(channel: Channel) -> None:
    with eventfds(1) as fds:
        before = len(open_files())
        with ending_with(ConnectionAbortedError):
            for _ in range(1000):
                channel.send(WireMessage(1, 9, 0, bytes(100_000), 0, fds))
                assert len(open_files()) - before <= channel_module.MAX_BACKLOG_FDS
        channel.close()
        assert len(open_files()) <= before


def test_a_waiting_descriptor_arrives_with_its_own_message(
    channel: Channel, ends: tuple[socket.socket, socket.socket]
) -> None:
    with contextlib.closing(Channel(ends[1])) as peer, eventfds(1) as fds:
        for number in range(60):
            given = fds if number % 3 == 0 else []
            channel.send(WireMessage(number, 9, 0, bytes(20_000), 0, list(given)))
        for number in range(60):
            got = peer.receive()
            assert got is not None
            assert (got.id, len(got.fds)) == (number, number % 3 == 0)
            got.close_fds()


def test_descriptors_that_come_with_a_message_in_pieces_are_bounded(
    channel: Channel, ends: tuple[socket.socket, socket.socket]
) -> None:
    raw = WireMessage(1, 9, 0, bytes(20)).pack()
    with eventfds(1) as fds:
        before = len(open_files())
        for place in range(len(raw) - 1):
            socket.send_fds(ends[1], [raw[place : place + 1]], fds * 200)
        ends[1].shutdown(socket.SHUT_WR)
        assert channel.receive() is None
        assert len(open_files()) - before <= 253


def test_a_client_that_is_cut_off_is_waited_for_by_nobody(
    server: DeviceServer,
    ends: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel_module, "MAX_BACKLOG", MEGABYTE)
    read = WireMessage(1, Command.REGION_READ, 0, wire.RegionAccess(0, MEMORY, 4096).pack()).pack()
    ends[1].settimeout(5)
    ends[1].sendall(WireMessage(0, Command.VERSION, 0, wire.Version(0, 0).pack()).pack())
    with contextlib.suppress(ConnectionError):
        for _ in range(10_000):
            ends[1].sendall(read)
    server.wait_until_gone(soon("the server's end", 2))


def test_the_stream_keeps_little_of_each_message(
    device: ScratchDevice, ends: tuple[socket.socket, socket.socket]
) -> None:
    writer = Writer("scratch")
    with device_server(device, ends[0], writer=writer), Client(ends[1]) as client:
        with allocating(8 * MEGABYTE):
            for _ in range(30):
                client.post(99, bytes(MEGABYTE))
            client.device_info()
        client.region_write(MEMORY, 0, bytes(4096))
    lines = [str(message) for message in writer.stream.of(Exchanged)]
    assert len(lines) == 2 + 30 + 4
    assert lines[-2].endswith("count=4096 data=" + 64 * "0" + "... 4096 bytes")


# Logs


def test_a_client_cannot_flood_the_log(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    for number in range(200):
        client._channel.send(WireMessage(number, Command.DMA_READ, MessageFlags.REPLY))
    client.device_info()
    assert len(caplog.records) == limited_log.BURST


def test_a_log_says_how_much_it_left_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limited_log, "PERIOD", 0.0)
    log = LimitedLog(logging.getLogger("a peer"))
    log._count, log._until = limited_log.BURST + 7, 0.0
    log.log(logging.WARNING, "again %d", 5)
    assert caplog.messages == ["... 7 lines like these left out ...", "again 5"]


def test_a_device_that_fails_at_every_message_is_logged_once(
    device: ScratchDevice,
    ends: tuple[socket.socket, socket.socket],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        ending_with(ZeroDivisionError),
        device_server(device, ends[0]),
        Client(ends[1]) as client,
    ):
        for _ in range(50):
            with refused(errno.EIO):
                client.region_read(MEMORY, BROKEN, 1)
    assert len(caplog.records) == 1
