"""Framing, and which message a file descriptor came with."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from harness.vfio_user import channel as channel_module
from harness.vfio_user.channel import Channel, FramingError
from harness.vfio_user.wire import HEADER, MAX_DATA, WireMessage
from tests.protocol.vfio_checks import ending_with, eventfds


@pytest.fixture
def ours(ends: tuple[socket.socket, socket.socket]) -> socket.socket:
    ends[1].settimeout(5)
    return ends[1]


@pytest.fixture
def channel(ends: tuple[socket.socket, socket.socket]) -> Iterator[Channel]:
    channel = Channel(ends[0], never_block=True)
    yield channel
    channel.close()


def message(ident: int, size: int = 20) -> bytes:
    return WireMessage(ident, 9, 0, bytes(size)).pack()


def received(channel: Channel) -> tuple[int, int]:
    """Return id and number of descriptors of the next message, and close those."""
    got = channel.receive()
    assert got is not None
    count = len(got.fds)
    got.close_fds()
    return got.id, count


def test_descriptors_belong_to_the_message_they_were_sent_with(
    channel: Channel, ours: socket.socket
) -> None:
    with eventfds(3) as fds:
        ours.sendall(message(1))
        socket.send_fds(ours, [message(2)], fds[:1])
        ours.sendall(message(3))
        socket.send_fds(ours, [message(4)], fds[1:])
    assert [received(channel) for _ in range(4)] == [(1, 0), (2, 1), (3, 0), (4, 2)]


@pytest.mark.parametrize("first", [1, HEADER.size - 1, HEADER.size, HEADER.size + 3])
def test_descriptors_stay_with_a_message_that_comes_in_two_pieces(
    channel: Channel, ours: socket.socket, first: int
) -> None:
    with eventfds(1) as fds:
        ours.sendall(message(1))
        socket.send_fds(ours, [message(2)[:first]], fds)
        ours.sendall(message(2)[first:] + message(3))
    assert [received(channel) for _ in range(3)] == [(1, 0), (2, 1), (3, 0)]


def test_descriptors_that_were_never_asked_for_are_closed_with_the_channel(
    channel: Channel, ours: socket.socket
) -> None:
    with eventfds(2) as fds:
        socket.send_fds(ours, [message(1)[:5]], fds)
    ours.shutdown(socket.SHUT_WR)
    assert channel.receive() is None


def test_messages_of_all_sizes_arrive_whole(channel: Channel, ours: socket.socket) -> None:
    sizes = [0, 1, 65519, 65520, 65521, 200_000, 3, MAX_DATA, 7]
    data = [os.urandom(size) for size in sizes]
    stream = b"".join(WireMessage(n, 9, 0, part).pack() for n, part in enumerate(data))
    writer = threading.Thread(target=ours.sendall, args=(stream,))
    writer.start()
    for number, part in enumerate(data):
        got = channel.receive()
        assert got is not None
        assert (got.id, got.payload) == (number, part)
    writer.join()


def test_the_end_of_the_stream_is_told_even_in_the_middle_of_a_message(
    channel: Channel, ours: socket.socket
) -> None:
    ours.sendall(message(1)[:-1])
    ours.close()
    assert channel.receive() is None


def test_a_size_that_cannot_be_right_carries_the_header_to_answer(
    channel: Channel, ours: socket.socket
) -> None:
    ours.sendall(HEADER.pack(7, 9, 15, 0, 0))
    with pytest.raises(FramingError, match="15 bytes") as caught:
        channel.receive()
    assert caught.value.header == WireMessage(7, 9)


def test_a_message_larger_than_the_socket_holds_is_sent_whole_and_holds_nobody_up(
    channel: Channel, ours: socket.socket
) -> None:
    sent = [WireMessage(n, 9, 0, os.urandom(MAX_DATA)) for n in range(3)]
    for part in sent:
        channel.send(part)
    expected = b"".join(part.pack() for part in sent)
    got = b""
    while len(got) < len(expected):
        got += ours.recv(1 << 20)
    assert got == expected


def test_a_descriptor_that_waits_its_turn_may_be_closed_by_its_owner(
    channel: Channel, ours: socket.socket
) -> None:
    first = WireMessage(1, 9, 0, bytes(MAX_DATA))
    channel.send(first)
    with eventfds(1) as fds:
        channel.send(WireMessage(2, 9, 0, b"", 0, list(fds)))
    left = HEADER.size + MAX_DATA
    while left:
        left -= len(ours.recv(left))
    data, got, _, _ = socket.recv_fds(ours, 100, 4)
    assert data == WireMessage(2, 9).pack()
    assert len(got) == 1
    os.close(got[0])


def test_a_closed_channel_refuses_to_send(channel: Channel, ours: socket.socket) -> None:
    channel.shutdown()
    with pytest.raises(ConnectionResetError):
        channel.send(WireMessage(1, 9))


def test_a_backlog_that_grows_too_large_ends_the_connection(
    channel: Channel, ours: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "MAX_BACKLOG", 2 * MAX_DATA)
    with ending_with(ConnectionAbortedError, "unread"):
        for number in range(4):
            channel.send(WireMessage(number, 9, 0, bytes(MAX_DATA)))
    assert channel.receive() is None
