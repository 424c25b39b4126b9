"""Mutated messages: each is answered or ends the connection, and none leaves anything behind."""

from __future__ import annotations

import contextlib
import random
import socket

import pytest

from harness.spec.vfio import Command, IrqSetFlags
from harness.vfio_user import wire
from harness.vfio_user.server import device_server
from harness.vfio_user.wire import HEADER, Message
from tests.protocol.scratch_device import ScratchDevice
from tests.protocol.vfio_checks import eventfds, soon

PROBE = 0xFFFF
_WIRED = IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_TRIGGER
_ACCESS = wire.RegionAccess(0, 0, 4).pack()
_MULTI = wire.WriteCount(1).pack() + wire.SingleWrite(0, 0, 4, bytes(8)).pack()
VERSION = wire.Version(0, 0).pack() + wire.Capabilities().pack()
SOUND = [
    (Command.VERSION, VERSION, 0),
    (Command.DMA_MAP, wire.DmaMap(32, 3, 0, 0, 4096).pack(), 1),
    (Command.DMA_UNMAP, wire.DmaUnmap(24, 0, 0, 4096).pack(), 0),
    (Command.DEVICE_GET_INFO, wire.DeviceInfo(16).pack(), 0),
    (Command.DEVICE_GET_REGION_INFO, wire.RegionInfo(128, index=2).pack(), 0),
    (Command.DEVICE_GET_REGION_IO_FDS, wire.RegionIoFds(16).pack(), 0),
    (Command.DEVICE_GET_IRQ_INFO, wire.IrqInfo(16).pack(), 0),
    (Command.DEVICE_SET_IRQS, wire.IrqSet(20, _WIRED, 1, 0, 2).pack(), 2),
    (Command.REGION_READ, _ACCESS, 0),
    (Command.REGION_WRITE, _ACCESS + bytes(4), 0),
    (Command.REGION_WRITE_MULTI, _MULTI, 0),
    (Command.DMA_READ, bytes(16), 0),
    (Command.DEVICE_RESET, b"", 0),
]


def mutated(rng: random.Random) -> tuple[bytes, int]:
    """Return the bytes of a damaged message, and how many descriptors to send with it."""
    command, payload, fds = rng.choice(SOUND)
    raw = bytearray(Message(rng.randrange(PROBE), command, 0, payload).pack())
    for _ in range(rng.randint(1, 4)):
        match rng.randrange(5):
            case 0:
                raw[rng.randrange(len(raw))] = rng.choice((0, 1, 0x10, 0x7F, 0xFF, 0x21))
            case 1:
                raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            case 2:  # another length, told truly
                size = HEADER.size + rng.randrange(200)
                raw = (raw + rng.randbytes(200))[:size]
                raw[4:8] = size.to_bytes(4, "little")
            case 3:  # some field at one of its ends
                place = HEADER.size + 4 * rng.randrange(8)
                if place + 4 <= len(raw):
                    raw[place : place + 4] = rng.choice((0, 1, 1 << 31, (1 << 32) - 1)).to_bytes(
                        4, "little"
                    )
            case 4:
                fds = rng.randrange(4)
    return bytes(raw), fds


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
    probe = Message(PROBE, Command.DEVICE_GET_INFO, 0, wire.DeviceInfo(16).pack()).pack()
    filler = bytes(wire.MAX_MESSAGE)
    left, closed = 250, 0
    with eventfds(4) as fds:
        while left:
            server_end, ours = socket.socketpair()
            with ours, device_server(device, server_end) as server:
                ours.settimeout(10)
                if rng.random() < 0.9:  # else whatever comes has come too early
                    ours.sendall(Message(0, Command.VERSION, 0, VERSION).pack())
                while left:
                    left -= 1
                    raw, count = mutated(rng)
                    # As many bytes as it says it has, so that the probe stands on its own.
                    told = int.from_bytes(raw[4:8], "little")
                    if HEADER.size <= told <= wire.MAX_MESSAGE:
                        raw = (raw + filler)[:told]
                    with contextlib.suppress(ConnectionError):
                        socket.send_fds(ours, [raw[:64]], fds[:count])
                        ours.sendall(raw[64:] + probe)
                    if not answered(ours):
                        closed += 1
                        server.wait_until_gone(soon("the server's end"))
                        break
    assert closed > 0  # sizes are damaged, too
