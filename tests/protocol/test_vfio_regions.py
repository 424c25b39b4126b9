"""Regions: information, mapping, reading and writing."""

from __future__ import annotations

import errno
import struct

import pytest

from harness.spec.vfio import Command, MessageFlags, RegionFlags
from harness.vfio_user import wire
from harness.vfio_user.client import Client
from harness.vfio_user.device import MappableArea, Region
from tests.protocol.scratch_device import (
    ABSENT,
    MEMORY,
    READ_ONLY,
    REFUSING,
    RW,
    WHOLE,
    WINDOW,
    ScratchDevice,
)
from tests.protocol.vfio_checks import refused

NO_REPLY = MessageFlags.NO_REPLY


def test_a_plain_region_is_described_as_the_device_says(client: Client) -> None:
    assert client.region_info(MEMORY) == Region(4096, RW)
    assert client.region_info(READ_ONLY) == Region(16, RegionFlags.READ)
    assert client.region_info(ABSENT) == Region(0, RegionFlags(0))


def test_a_region_that_can_be_mapped_in_whole_needs_no_capability(client: Client) -> None:
    assert client.region_info(WHOLE) == Region(
        4096, RW | RegionFlags.MMAP, (MappableArea(0, 4096),)
    )


def test_a_region_that_can_be_mapped_in_part_lists_its_areas(client: Client) -> None:
    areas = (MappableArea(4096, 4096), MappableArea(3 * 4096, 4096))
    flags = RW | RegionFlags.MMAP | RegionFlags.CAPS
    assert client.region_info(WINDOW) == Region(4 * 4096, flags, areas, None, 4096)


def test_a_short_argsz_is_answered_with_the_needed_one_and_no_descriptor(client: Client) -> None:
    size = wire.RegionInfo.FORMAT.size
    request = wire.RegionInfo(size, index=WINDOW).pack()
    reply = client.call(Command.DEVICE_GET_REGION_INFO, request)
    info = wire.RegionInfo.unpack(reply.payload)
    assert info.argsz == size + 16 + 2 * 16
    assert info.cap_offset == 0
    assert reply.fds == []


def test_a_sufficient_argsz_brings_the_capability_and_one_descriptor(client: Client) -> None:
    request = wire.RegionInfo(4096, index=WINDOW).pack()
    reply = client.call(Command.DEVICE_GET_REGION_INFO, request)
    try:
        # id, version, next; areas, reserved; offset and size of each
        expected = struct.pack("<HHI II QQ QQ", 1, 1, 0, 2, 0, 4096, 4096, 3 * 4096, 4096)
        assert reply.payload[wire.RegionInfo.FORMAT.size :] == expected
        assert len(reply.fds) == 1
    finally:
        reply.close_fds()


def test_stores_to_a_mapped_area_reach_the_device_without_a_message(
    client: Client, device: ScratchDevice
) -> None:
    pages = client.map_region(WINDOW)
    assert set(pages) == {4096, 3 * 4096}
    pages[3 * 4096][5] = 0x77
    # The region begins at the second page of its file.
    assert device.window[4 * 4096 + 5] == 0x77
    assert client.map_region(MEMORY) == {}


def test_a_region_has_no_io_fds(client: Client) -> None:
    request = wire.RegionIoFds(16, index=MEMORY).pack()
    reply = client.call(Command.DEVICE_GET_REGION_IO_FDS, request)
    assert wire.RegionIoFds.unpack(reply.payload) == wire.RegionIoFds(16, 0, MEMORY, 0)


def test_what_is_written_is_read_back(client: Client) -> None:
    client.region_write(MEMORY, 8, b"\1\2\3\4")
    assert client.region_read(MEMORY, 6, 8) == b"\0\0\1\2\3\4\0\0"


def test_the_last_byte_of_a_region_can_be_accessed(client: Client) -> None:
    client.region_write(MEMORY, 4095, b"\xff")
    assert client.region_read(MEMORY, 4095, 1) == b"\xff"


def test_replies_repeat_offset_region_and_count(client: Client) -> None:
    request = wire.RegionAccess(16, MEMORY, 2).pack()
    assert client.call(Command.REGION_READ, request).payload == request + b"\0\0"
    assert client.call(Command.REGION_WRITE, request + b"ab").payload == request


def test_posted_writes_are_done_before_the_next_reply(client: Client) -> None:
    for value in range(200):
        client.region_write(MEMORY, 0, bytes([value]), posted=True)
    assert client.region_read(MEMORY, 0, 1) == bytes([199])


def test_a_posted_write_that_fails_is_not_answered(client: Client) -> None:
    client.region_write(MEMORY, REFUSING, b"\0", posted=True)
    client.region_write(MEMORY, 4096, b"\0", posted=True)
    # A stray reply would be taken for a reply to nothing and logged; the next one is ours.
    assert client.region_read(MEMORY, 0, 1) == b"\0"


def test_several_writes_in_one_message_are_done_in_order(client: Client) -> None:
    writes = [(MEMORY, 0, b"\1\2\3\4\5\6\7\x08"), (MEMORY, 4, b"\xaa"), (MEMORY, 16, b"\xbb\xcc")]
    assert client.region_write_multi(writes) == 3
    assert client.region_read(MEMORY, 0, 8) == b"\1\2\3\4\xaa\6\7\x08"
    assert client.region_read(MEMORY, 16, 2) == b"\xbb\xcc"


def test_several_posted_writes_in_one_message_are_done(client: Client) -> None:
    client.region_write_multi([(MEMORY, n, bytes([n])) for n in range(200)], posted=True)
    assert client.region_read(MEMORY, 0, 200) == bytes(range(200))


def test_several_writes_stop_at_the_first_that_fails_and_say_how_many_were_done(
    client: Client,
) -> None:
    writes = [(MEMORY, 0, b"\1"), (MEMORY, REFUSING, b"\2"), (MEMORY, 2, b"\3")]
    assert client.region_write_multi(writes) == 1
    assert client.region_read(MEMORY, 0, 4) == b"\1\0\0\0"


def test_several_writes_fail_as_the_first_one_does(client: Client) -> None:
    with refused(errno.EACCES):
        client.region_write_multi([(MEMORY, REFUSING, b"\1"), (MEMORY, 0, b"\2")])
    assert client.region_read(MEMORY, 0, 1) == b"\0"


def test_the_largest_transfer_is_taken_and_a_larger_one_refused(client: Client) -> None:
    with refused(errno.EINVAL):  # outside of the region, but not too large
        client.region_read(MEMORY, 0, 1 << 20)
    with refused(errno.E2BIG):
        client.region_read(MEMORY, 0, (1 << 20) + 1)
    with refused(errno.E2BIG):
        client.region_write(MEMORY, 0, bytes((1 << 20) + 1))


def test_a_refusal_of_the_device_keeps_its_errno(client: Client) -> None:
    with refused(errno.EACCES):
        client.region_read(MEMORY, REFUSING, 4)
    with refused(errno.EACCES):
        client.region_write(MEMORY, REFUSING, b"\0")


@pytest.mark.parametrize("region", [READ_ONLY, ABSENT, 5, 0xFFFFFFFF])
def test_a_region_that_cannot_be_written_refuses_it(client: Client, region: int) -> None:
    with refused(errno.EINVAL):
        client.region_write(region, 0, b"\0")


def test_reset_reaches_the_device(client: Client, device: ScratchDevice) -> None:
    client.region_write(MEMORY, 0, b"\1")
    client.reset()
    assert client.region_read(MEMORY, 0, 1) == b"\0"
    assert device.log == [("attached",), ("reset",)]
