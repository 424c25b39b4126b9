"""Clients that pad their requests, and that pass more than is needed."""

from __future__ import annotations

import errno

import pytest

from harness.spec.vfio import Command, RegionFlags
from harness.vfio_user import wire
from harness.vfio_user.client import Client
from harness.vfio_user.server import DeviceServer
from tests.protocol.scratch_device import MSIX, WHOLE, WINDOW
from tests.protocol.vfio_checks import eventfds, refused

PAGE = 4096
REQUESTS = [
    pytest.param(Command.DEVICE_GET_INFO, wire.DeviceInfo(16).pack(), id="device info"),
    pytest.param(
        Command.DEVICE_GET_REGION_INFO, wire.RegionInfo(88, index=WINDOW).pack(), id="region info"
    ),
    pytest.param(Command.DEVICE_GET_REGION_IO_FDS, wire.RegionIoFds(16).pack(), id="io fds"),
    pytest.param(Command.DEVICE_GET_IRQ_INFO, wire.IrqInfo(16, index=MSIX).pack(), id="irq info"),
    pytest.param(Command.DMA_UNMAP, wire.DmaUnmap(24, 0, PAGE, PAGE).pack(), id="unmap"),
]


@pytest.mark.parametrize(("command", "request_"), REQUESTS)
@pytest.mark.parametrize("padding", [1, 56, 4096])
def test_a_request_may_be_padded_with_zeros(
    client: Client, command: int, request_: bytes, padding: int
) -> None:
    replies = []
    for payload in (request_, request_ + bytes(padding)):
        if command == Command.DMA_UNMAP:
            client.dma_map(PAGE, PAGE)
        reply = client.call(command, payload)
        replies.append((reply.payload, len(reply.fds)))
        reply.close_fds()
    assert replies[0] == replies[1]


@pytest.mark.parametrize(("command", "request_"), REQUESTS)
def test_a_request_with_something_behind_it_is_refused(
    client: Client, command: int, request_: bytes
) -> None:
    client.dma_map(PAGE, PAGE)
    with refused(errno.EINVAL):
        client.call(command, request_ + bytes(7) + b"\1")


def test_the_descriptor_of_a_range_may_come_again_with_its_unmap(
    client: Client, server: DeviceServer
) -> None:
    request = wire.DmaUnmap(24, 0, PAGE, PAGE).pack()
    with eventfds(2) as fds:
        client.dma_map(PAGE, PAGE)
        with refused(errno.EINVAL):
            client.call(Command.DMA_UNMAP, request, fds)
        assert client.call(Command.DMA_UNMAP, request, fds[:1]).payload == request
    assert server.session is not None
    assert server.session.memory.mappings == ()


@pytest.mark.parametrize("argsz", [32, 79])
def test_a_client_with_no_room_for_the_areas_is_told_the_size_and_nothing_of_mapping(
    client: Client, argsz: int
) -> None:
    request = wire.RegionInfo(argsz, index=WINDOW)
    reply = client.call(Command.DEVICE_GET_REGION_INFO, request.pack())
    info = wire.RegionInfo.unpack(reply.payload)
    assert (info.argsz, reply.fds) == (32 + 16 + 2 * 16, [])
    assert info.flags == RegionFlags.READ | RegionFlags.WRITE
    assert info.cap_offset == 0


def test_a_region_that_is_mapped_in_whole_needs_no_room_for_areas(client: Client) -> None:
    request = wire.RegionInfo(32, index=WHOLE)
    reply = client.call(Command.DEVICE_GET_REGION_INFO, request.pack())
    assert len(reply.fds) == 1
    reply.close_fds()
    assert wire.RegionInfo.unpack(reply.payload).flags & RegionFlags.MMAP
