"""Client memory: mapping it, and reaching it in place or by messages."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

import pytest

from harness.spec.vfio import Command, DmaMapFlags, DmaUnmapFlags
from harness.vfio_user import requests, wire
from harness.vfio_user.client import Client
from harness.vfio_user.device import Bus, Verdict
from harness.vfio_user.server import DeviceServer, device_server
from harness.vfio_user.wire import Capabilities
from tests.protocol.scratch_device import ScratchDevice
from tests.protocol.vfio_checks import ending_with, eventfds, refused, soon

T = TypeVar("T")

BASE = 0x10_0000
PAGE = 4096


@pytest.fixture
def bus(client: Client, device: ScratchDevice) -> Bus:
    assert device.bus is not None
    return device.bus


def deferred(bus: Bus, work: Callable[[], T]) -> T:
    """Run work as a device would, on its worker thread, and return what it returned."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except OSError as error:
            done.set_exception(error)

    bus.defer(run)
    return done.result(soon("deferred work").remaining())


def test_memory_given_with_a_descriptor_is_accessed_in_place(
    client: Client, server: DeviceServer, bus: Bus
) -> None:
    memory = client.map_shared(BASE, 2 * PAGE)
    memory[10:14] = b"abcd"
    # On this thread: a message would have to be answered by it.
    assert bus.dma_read(BASE + 10, 4) == b"abcd"
    bus.dma_write(BASE + PAGE - 2, b"across")
    assert memory[PAGE - 2 : PAGE + 4] == b"across"
    assert server.session is not None
    assert [mapping.pages is not None for mapping in server.session.memory.mappings] == [True]


def test_memory_given_without_a_descriptor_is_accessed_by_messages(
    client: Client, bus: Bus
) -> None:
    memory = bytearray(PAGE)
    client.map_served(BASE, memory)
    memory[10:14] = b"abcd"
    assert deferred(bus, lambda: bus.dma_read(BASE + 10, 4)) == b"abcd"
    deferred(bus, lambda: bus.dma_write(BASE, b"xyz"))
    assert memory[:3] == b"xyz"


def test_an_access_across_both_kinds_of_memory_is_whole(client: Client, bus: Bus) -> None:
    served = bytearray(PAGE)
    shared = client.map_shared(BASE, PAGE)
    client.map_served(BASE + PAGE, served)
    deferred(bus, lambda: bus.dma_write(BASE + PAGE - 3, b"abcdef"))
    assert shared[-3:] == b"abc"
    assert served[:3] == b"def"
    assert deferred(bus, lambda: bus.dma_read(BASE + PAGE - 3, 6)) == b"abcdef"


def test_direct_dma_can_be_forbidden(
    device: ScratchDevice, ends: tuple[socket.socket, socket.socket]
) -> None:
    seen: list[str] = []

    def watch(direction: str, message: wire.WireMessage) -> None:
        if message.command == Command.DMA_READ:
            seen.append(direction)

    with (
        device_server(device, ends[0], direct_dma=False),
        Client(ends[1], observer=watch) as client,
    ):
        bus = device.bus
        assert bus is not None
        client.map_shared(BASE, PAGE)[:4] = b"abcd"
        assert deferred(bus, lambda: bus.dma_read(BASE, 4)) == b"abcd"
    assert seen == ["<-", "->"]


def test_large_transfers_are_split_at_the_client_s_limit(
    device: ScratchDevice, ends: tuple[socket.socket, socket.socket]
) -> None:
    sizes: list[int] = []

    def read(address: int, count: int) -> bytes:
        sizes.append(count)
        return bytes(count)

    capabilities = Capabilities(max_data_xfer_size=1000)
    with (
        device_server(device, ends[0]),
        Client(ends[1], dma_read=read, capabilities=capabilities),
    ):
        bus = device.bus
        assert bus is not None
        assert len(deferred(bus, lambda: bus.dma_read(0, 2500))) == 2500
    assert sizes == [1000, 1000, 500]


def test_large_transfers_are_split_so_that_qemu_can_answer_them(client: Client, bus: Bus) -> None:
    data = os.urandom(3 * requests.LARGEST_DMA + 5)
    memory = bytearray(64 * PAGE)
    client.map_served(BASE, memory)
    deferred(bus, lambda: bus.dma_write(BASE + 1, data))
    assert memory[1 : 1 + len(data)] == data
    assert deferred(bus, lambda: bus.dma_read(BASE + 1, len(data))) == data


def test_the_client_s_refusal_reaches_the_device_with_its_errno(
    device: ScratchDevice, ends: tuple[socket.socket, socket.socket]
) -> None:
    def refuse(address: int, data: bytes) -> None:
        raise OSError(errno.EFAULT, "blocked")

    with device_server(device, ends[0]), Client(ends[1], dma_write=refuse):
        bus = device.bus
        assert bus is not None
        with refused(errno.EFAULT):
            deferred(bus, lambda: bus.dma_write(BASE, b"1"))
        with refused(errno.EFAULT):
            bus.send_message(0xFEE00000, 0x4021).result(5)


def test_memory_that_was_never_mapped_is_the_client_s_to_refuse(client: Client, bus: Bus) -> None:
    with refused(errno.EFAULT):
        deferred(bus, lambda: bus.dma_read(BASE, 4))


def test_a_write_to_memory_given_for_reading_is_refused(client: Client, bus: Bus) -> None:
    memory = client.map_shared(BASE, PAGE, flags=DmaMapFlags.READ)
    with refused(errno.EPERM):
        deferred(bus, lambda: bus.dma_write(BASE, b"1"))
    assert memory[0] == 0


def test_an_interrupt_message_is_a_four_byte_dma_write(
    device: ScratchDevice, ends: tuple[socket.socket, socket.socket]
) -> None:
    got: list[tuple[int, bytes]] = []
    with (
        device_server(device, ends[0]),
        Client(ends[1], dma_write=lambda address, data: got.append((address, data))),
    ):
        assert device.bus is not None
        assert device.bus.send_message(0xFEE00018, 0x4021).exception(5) is None
    assert got == [(0xFEE00018, b"\x21\x40\0\0")]


def test_a_message_may_be_sent_while_the_client_waits_for_the_server(
    client: Client, device: ScratchDevice
) -> None:
    memory = bytearray(PAGE)
    client.map_served(BASE, memory)
    bus = device.bus
    assert bus is not None
    sent: list[Verdict] = []
    device.on_write = lambda offset, data: sent.append(bus.send_message(BASE, 0x11223344))
    for _ in range(100):
        client.region_write(0, 0, b"\1")
    assert [verdict.exception(5) for verdict in sent] == [None] * 100
    assert memory[:4] == b"\x44\x33\x22\x11"


def test_waiting_for_the_client_on_the_server_s_thread_is_refused_and_not_a_deadlock(
    device: ScratchDevice, ends: tuple[socket.socket, socket.socket]
) -> None:
    def wait(offset: int, data: bytes) -> None:
        assert device.bus is not None
        device.bus.dma_read(BASE, 4)

    device.on_write = wait
    with (
        ending_with(RuntimeError, match="would wait for itself"),
        device_server(device, ends[0]),
        Client(ends[1]) as client,
        refused(errno.EIO),
    ):
        client.region_write(0, 0, b"\1")


def test_a_wait_ends_when_the_client_goes(
    device: ScratchDevice, ends: tuple[socket.socket, socket.socket]
) -> None:
    asked, ended = threading.Event(), Future[int | None]()
    release = threading.Event()

    def stall(address: int, count: int) -> bytes:
        asked.set()
        release.wait(5)
        return bytes(count)

    def work() -> None:
        try:
            stalled.dma_read(BASE, 4)
        except ConnectionError as error:
            ended.set_result(error.errno)

    with device_server(device, ends[0]) as server:
        client = Client(ends[1], dma_read=stall)
        assert device.bus is not None
        stalled = device.bus
        stalled.defer(work)
        assert asked.wait(5)
        ends[1].shutdown(socket.SHUT_RDWR)
        assert ended.result(5) == errno.ECONNRESET
        release.set()
        client.close()
        server.wait_until_gone(soon("the server's end"))
    assert stalled.send_message(0, 0).exception(5).__class__ is ConnectionResetError


def test_unmapped_memory_is_not_accessed_in_place_any_more(client: Client, bus: Bus) -> None:
    memory = client.map_shared(BASE, PAGE)
    client.dma_unmap(BASE, PAGE)
    with refused(errno.EFAULT):
        deferred(bus, lambda: bus.dma_write(BASE, b"1"))
    assert memory[0] == 0


def test_unmap_is_answered_with_the_request(client: Client) -> None:
    client.dma_map(BASE, PAGE)
    request = wire.DmaUnmap(24, 0, BASE, PAGE).pack()
    assert client.call(Command.DMA_UNMAP, request).payload == request


def test_unmapping_what_was_never_mapped_is_refused(client: Client) -> None:
    with refused(errno.ENOENT):
        client.dma_unmap(BASE, PAGE)
    client.device_info()


def test_unmap_all_takes_every_range(client: Client, server: DeviceServer) -> None:
    client.map_shared(BASE, PAGE)
    client.dma_map(BASE + PAGE, PAGE)
    client.dma_unmap_all()
    assert server.session is not None
    assert server.session.memory.mappings == ()
    client.dma_map(BASE, 2 * PAGE)


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("memory")
    os.ftruncate(fd, 2 * PAGE)
    yield fd
    os.close(fd)


def test_the_offset_into_the_file_is_kept(client: Client, bus: Bus, file: int) -> None:
    os.pwrite(file, b"second", PAGE)
    client.dma_map(BASE, PAGE, fd=file, offset=PAGE)
    assert bus.dma_read(BASE, 6) == b"second"


def dma_map(**changes: int) -> bytes:
    fields = {"argsz": 32, "flags": 3, "offset": 0, "address": BASE, "size": PAGE}
    return wire.DmaMap(**(fields | changes)).pack()


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(dma_map(argsz=31), id="argsz too small"),
        pytest.param(dma_map(argsz=33), id="argsz too large"),
        pytest.param(dma_map(flags=0), id="no right"),
        pytest.param(dma_map(flags=7), id="unknown flag"),
        pytest.param(dma_map(size=0), id="empty"),
        pytest.param(dma_map(size=PAGE - 1), id="part of a page"),
        pytest.param(dma_map(address=BASE + 1), id="unaligned"),
        pytest.param(dma_map(address=(1 << 64) - PAGE, size=2 * PAGE), id="wraps"),
        pytest.param(dma_map(offset=1), id="file offset unaligned"),
        pytest.param(dma_map(offset=2 * PAGE), id="behind the end of the file"),
        pytest.param(dma_map(size=3 * PAGE), id="longer than the file"),
        pytest.param(dma_map(offset=1 << 63), id="file offset beyond all files"),
        pytest.param(dma_map()[:-1], id="payload too short"),
        pytest.param(dma_map() + b"\0", id="payload too long"),
    ],
)
def test_a_malformed_map_is_refused(client: Client, file: int, request_: bytes) -> None:
    with refused(errno.EINVAL):
        client.call(Command.DMA_MAP, request_, [file])
    client.call(Command.DMA_MAP, dma_map(), [file])


def test_two_descriptors_for_one_range_are_refused(client: Client, file: int) -> None:
    with refused(errno.EINVAL):
        client.call(Command.DMA_MAP, dma_map(), [file, file])


def test_a_file_that_cannot_be_mapped_is_refused_as_mmap_does(client: Client) -> None:
    with eventfds(1) as (fd,), refused(errno.ENODEV):
        client.dma_map(BASE, PAGE, fd=fd)


@pytest.mark.parametrize(
    ("address", "size"),
    [
        pytest.param(BASE, 4 * PAGE, id="the same"),
        pytest.param(BASE - PAGE, 2 * PAGE, id="its start"),
        pytest.param(BASE + 3 * PAGE, 2 * PAGE, id="its end"),
        pytest.param(BASE + PAGE, PAGE, id="its middle"),
        pytest.param(BASE - PAGE, 6 * PAGE, id="more than all of it"),
    ],
)
def test_a_range_that_overlaps_another_is_refused(client: Client, address: int, size: int) -> None:
    client.dma_map(BASE, 4 * PAGE)
    with refused(errno.EEXIST):
        client.dma_map(address, size)
    client.dma_map(BASE - PAGE, PAGE)
    client.dma_map(BASE + 4 * PAGE, PAGE)


@pytest.mark.parametrize(
    ("request_", "number"),
    [
        pytest.param(wire.DmaUnmap(23, 0, BASE, PAGE), errno.EINVAL, id="argsz too small"),
        pytest.param(wire.DmaUnmap(24, 4, BASE, PAGE), errno.EINVAL, id="unknown flag"),
        pytest.param(
            wire.DmaUnmap(24, DmaUnmapFlags.GET_DIRTY_BITMAP, BASE, PAGE),
            errno.ENOTSUP,
            id="dirty page log",
        ),
        pytest.param(
            wire.DmaUnmap(24, DmaUnmapFlags.ALL, BASE, 0), errno.EINVAL, id="all, and an address"
        ),
        pytest.param(
            wire.DmaUnmap(24, DmaUnmapFlags.ALL, 0, PAGE), errno.EINVAL, id="all, and a size"
        ),
        pytest.param(wire.DmaUnmap(24, 0, BASE, 0), errno.ENOENT, id="empty"),
    ],
)
def test_a_malformed_unmap_is_refused(
    client: Client, server: DeviceServer, request_: wire.DmaUnmap, number: int
) -> None:
    client.dma_map(BASE, PAGE)
    with refused(number):
        client.call(Command.DMA_UNMAP, request_.pack())
    assert server.session is not None
    assert len(server.session.memory.mappings) == 1
