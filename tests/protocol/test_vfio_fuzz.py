"""Mutated messages: each is answered or ends the connection, and none leaves anything behind."""

from __future__ import annotations

import contextlib
import random
import socket

import pytest

from harness.spec.vfio import Command
from harness.vfio_user import wire
from harness.vfio_user.server import device_server
from harness.vfio_user.wire import HEADER, WireMessage
from tests.protocol.hostile_messages import PROBE, VERSION, completed, mutated
from tests.protocol.scratch_device import ScratchDevice
from tests.protocol.vfio_checks import eventfds, soon


def answered(connection: socket.socket) -> bool:
    """Whether the server still answers, False when it has closed the connection."""
    received = b""
    while True:
        try:
            data = connection.recv(1 << 16)
        except ConnectionResetError:
            return False
        if not data:
            return False
        received += data
        while len(received) >= HEADER.size:
            ident, _, size, flags, _ = HEADER.unpack_from(received)
            if len(received) < size:
                break
            assert flags & 0xF == 1
            received = received[size:]
            if ident == PROBE:
                return True


@pytest.mark.parametrize("seed", range(8))
def test_damaged_messages_are_answered_or_end_the_connection(
    device: ScratchDevice, seed: int
) -> None:
    rng = random.Random(seed)
    probe = WireMessage(PROBE, Command.DEVICE_GET_INFO, 0, wire.DeviceInfo(16).pack()).pack()
    left, closed = 250, 0
    with eventfds(4) as fds:
        while left:
            server_end, ours = socket.socketpair()
            with ours, device_server(device, server_end) as server:
                ours.settimeout(10)
                if rng.random() < 0.9:  # else whatever comes has come too early
                    ours.sendall(WireMessage(0, Command.VERSION, 0, VERSION).pack())
                while left:
                    left -= 1
                    raw, count = mutated(rng)
                    raw = completed(raw)  # so that the probe stands on its own
                    with contextlib.suppress(ConnectionError):
                        socket.send_fds(ours, [raw[:64]], fds[:count])
                        ours.sendall(raw[64:] + probe)
                    if not answered(ours):
                        closed += 1
                        server.wait_until_gone(soon("the server's end"))
                        break
    assert closed > 0  # sizes are damaged, too
