"""Messages to a vfio-user server that are damaged, or sound and meant badly. From a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from harness.spec.ims_function import Register
from harness.spec.vfio import Command, DmaMapFlags, DmaUnmapFlags, IrqSetFlags, RegionIndex
from harness.vfio_user import wire
from harness.vfio_user.wire import HEADER, MAX_MESSAGE, WireMessage

PROBE: Final = 0xFFFF
"""Id of the messages that ask whether the server still answers; no other message has it."""

PAGE: Final = 4096
BASE: Final = 0x10_0000
"""Address of the memory that is given to the server."""

WIRED: Final = IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_TRIGGER
VERSION: Final = wire.Version(0, 0).pack() + wire.Capabilities(max_msg_fds=16).pack()

_ACCESS: Final = wire.RegionAccess(0, 0, 4).pack()
_MULTI: Final = wire.WriteCount(1).pack() + wire.SingleWrite(0, 0, 4, bytes(8)).pack()
SOUND: Final[Sequence[tuple[Command, bytes, int]]] = [
    (Command.VERSION, VERSION, 0),
    (Command.DMA_MAP, wire.DmaMap(32, 3, 0, 0, PAGE).pack(), 1),
    (Command.DMA_UNMAP, wire.DmaUnmap(24, 0, 0, PAGE).pack(), 0),
    (Command.DEVICE_GET_INFO, wire.DeviceInfo(16).pack(), 0),
    (Command.DEVICE_GET_REGION_INFO, wire.RegionInfo(128, index=2).pack(), 0),
    (Command.DEVICE_GET_REGION_IO_FDS, wire.RegionIoFds(16).pack(), 0),
    (Command.DEVICE_GET_IRQ_INFO, wire.IrqInfo(16).pack(), 0),
    (Command.DEVICE_SET_IRQS, wire.IrqSet(20, WIRED, 1, 0, 2).pack(), 2),
    (Command.REGION_READ, _ACCESS, 0),
    (Command.REGION_WRITE, _ACCESS + bytes(4), 0),
    (Command.REGION_WRITE_MULTI, _MULTI, 0),
    (Command.DMA_READ, bytes(16), 0),
    (Command.DMA_WRITE, bytes(20), 0),
    (Command.DEVICE_RESET, b"", 0),
]
"""A sound message of every command: payload, and how many descriptors go with it."""

_ENDS: Final = (0, 1, 1 << 31, (1 << 32) - 1)
_WIDE_ENDS: Final = (0, 1, BASE, 1 << 63, (1 << 64) - PAGE, (1 << 64) - 64, (1 << 64) - 1)


def mutated(rng: random.Random) -> tuple[bytes, int]:
    """Return the bytes of a damaged message, and how many descriptors to send with it."""
    command, payload, fds = rng.choice(SOUND)
    raw = bytearray(WireMessage(rng.randrange(PROBE), command, 0, payload).pack())
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
                    raw[place : place + 4] = rng.choice(_ENDS).to_bytes(4, "little")
            case 4:
                fds = rng.randrange(4)
    return bytes(raw), fds


_FILLER: Final = bytes(MAX_MESSAGE)


def completed(raw: bytes) -> bytes:
    """Return a damaged message with as many bytes as it says it has, so that another can follow."""
    told = int.from_bytes(raw[4:8], "little")
    return (raw + _FILLER)[:told] if HEADER.size <= told <= MAX_MESSAGE else raw


def message(rng: random.Random, command: int, payload: bytes = b"", *, flags: int = 0) -> bytes:
    """Return a message as it is given, with an id of its own."""
    return WireMessage(rng.randrange(PROBE), command, flags, payload).pack()


def register_write(register: int, value: int, *, region: int = 0, count: int = 4) -> bytes:
    """Return the payload of a write to a register."""
    access = wire.RegionAccess(register, region, count).pack()
    return access + value.to_bytes(count, "little")


def access(rng: random.Random) -> bytes:
    """Return a read or a write somewhere in some region, sound or not."""
    region = rng.choice((0, 0, 0, 2, 4, 7, rng.randrange(12)))
    offset = rng.choice((rng.randrange(0x10000), 4 * rng.randrange(0x400), *_WIDE_ENDS))
    count = rng.choice((1, 2, 4, 4, 4, 8, 8, 64, rng.randrange(PAGE), 0xFFFFFFFF))
    head = wire.RegionAccess(offset, region, count).pack()
    if rng.random() < 0.5:
        return message(rng, Command.REGION_READ, head)
    data = rng.randbytes(min(count, 1 << 16))
    return message(rng, Command.REGION_WRITE, head + data, flags=0x10 if rng.random() < 0.3 else 0)


def dma_map(rng: random.Random) -> bytes:
    """Return a DMA_MAP to go with a descriptor of any kind."""
    address = BASE + PAGE * rng.randrange(64) if rng.random() < 0.8 else rng.choice(_WIDE_ENDS)
    size = PAGE * rng.choice((1, 1, 1, 2, 16, 1 << 40))
    offset = rng.choice((0, 0, 0, PAGE, 1, 1 << 62, 1 << 63))
    flags = rng.choice((3, 3, 3, 1, 2, 0, 7))
    return message(
        rng, Command.DMA_MAP, wire.DmaMap(32, DmaMapFlags(flags), offset, address, size).pack()
    )


def dma_unmap(rng: random.Random) -> bytes:
    """Return a DMA_UNMAP of some range, or of all."""
    if rng.random() < 0.1:
        return message(rng, Command.DMA_UNMAP, wire.DmaUnmap(24, DmaUnmapFlags.ALL, 0, 0).pack())
    address = BASE + PAGE * rng.randrange(64)
    size = PAGE * rng.choice((1, 2, 64))
    return message(
        rng, Command.DMA_UNMAP, wire.DmaUnmap(24, 0, address, size).pack() + bytes(rng.randrange(9))
    )


def set_irqs(rng: random.Random) -> tuple[bytes, int]:
    """Return a DEVICE_SET_IRQS, and how many descriptors it wants."""
    data, action = rng.choice((1, 2, 4, 4, 4)), rng.choice((8, 16, 32, 32, 32, 32))
    start, count = rng.randrange(12), rng.choice((0, 1, 2, 4, 16))
    booleans = rng.randbytes(count) if data == 2 else b""
    request = wire.IrqSet(20 + len(booleans), data | action, rng.choice((1, 2, 3)), start, count)
    fds = count if data == 4 and rng.random() < 0.8 else 0
    return message(rng, Command.DEVICE_SET_IRQS, request.pack() + booleans), fds


def bus_mastering(rng: random.Random) -> bytes:
    """Return what lets the function access memory: its command register."""
    write = register_write(4, 6, region=RegionIndex.CONFIG, count=2)
    return message(rng, Command.REGION_WRITE, write)


RINGS: Final = (BASE, BASE, BASE + 64, BASE + PAGE - 64, *_WIDE_ENDS)
SIZES: Final = (1, 2, 16, 1024, 3, 0)


def work(
    rng: random.Random, rings: Sequence[int] = RINGS, sizes: Sequence[int] = SIZES
) -> list[bytes]:
    """Return what starts the work queue, on a ring that may be anywhere."""
    ring, size = rng.choice(rings), rng.choice(sizes)
    writes = [
        (Register.CONTROL, 0),
        (Register.WQ_SIZE, size),
        (Register.WQ_BASE_LO, ring & 0xFFFFFFFF),
        (Register.WQ_BASE_HI, ring >> 32),
        (Register.CONTROL, 1),
        (Register.WQ_TAIL, rng.choice((1, 2, size, size + 1, 0xFFFFFFFF))),
    ]
    return [
        bus_mastering(rng),
        *(
            message(rng, Command.REGION_WRITE, register_write(place, value), flags=0x10)
            for place, value in writes
        ),
    ]
