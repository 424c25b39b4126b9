"""What a client may do to the files that it gives and gets: it harms itself at most."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.devices.ims_function.function import ImsFunction
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.spec import ims_function as regs
from harness.spec.vfio import Command, DmaMapFlags, IrqIndexNumber, IrqInfoFlags
from harness.vfio_user import guest_memory, wire
from harness.vfio_user.client import Client
from harness.vfio_user.device import Bus, IrqIndex
from harness.vfio_user.eventfd import PollingSignaller, Signaller, signaller
from harness.vfio_user.guest_memory import GuestMemory
from harness.vfio_user.server import DeviceServer, device_server
from tests.protocol.scratch_device import MSI, ScratchDevice
from tests.protocol.vfio_checks import refused

BASE = 0x10_0000
PAGE = 4096
RW = DmaMapFlags.READ | DmaMapFlags.WRITE


@pytest.fixture
def bus(client: Client, device: ScratchDevice) -> Bus:
    assert device.bus is not None
    return device.bus


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("memory")
    os.ftruncate(fd, 2 * PAGE)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("left", [0, PAGE])
def test_memory_that_the_client_cuts_short_is_efault_and_no_signal(
    client: Client, bus: Bus, file: int, left: int
) -> None:
    client.dma_map(BASE, 2 * PAGE, fd=file)
    bus.dma_write(BASE, bytes(2 * PAGE))
    os.ftruncate(file, left)
    with refused(errno.EFAULT):
        bus.dma_read(BASE + PAGE, 4)
    with refused(errno.EFAULT):
        bus.dma_write(BASE + PAGE, b"1234")
    with refused(errno.EFAULT):  # half of it is there
        bus.dma_read(BASE + PAGE - 2, 4)
    assert os.fstat(file).st_size == left
    os.ftruncate(file, 2 * PAGE)
    bus.dma_write(BASE + PAGE - 2, b"back")
    assert os.pread(file, 4, PAGE - 2) == b"back"


def test_memory_that_can_only_be_read_is_read_in_place(client: Client, bus: Bus, file: int) -> None:
    os.pwrite(file, b"data", 0)
    fd = os.open(f"/proc/self/fd/{file}", os.O_RDONLY)
    try:
        with refused(errno.EACCES):
            client.dma_map(BASE, PAGE, fd=fd)
        client.dma_map(BASE, PAGE, fd=fd, flags=DmaMapFlags.READ)
    finally:
        os.close(fd)
    assert bus.dma_read(BASE, 4) == b"data"


def opened(path: str, flags: int) -> Callable[[Path], int]:
    return lambda directory: os.open(path.format(directory), flags)


def _memory_file_for_writing(directory: Path) -> int:
    path = directory / "memory"
    path.write_bytes(bytes(PAGE))
    return os.open(path, os.O_WRONLY)


@pytest.mark.parametrize(
    ("open_", "number"),
    [
        pytest.param(opened("{}", os.O_RDONLY), errno.ENODEV, id="directory"),
        pytest.param(opened("/dev/zero", os.O_RDWR), errno.ENODEV, id="/dev/zero"),
        pytest.param(opened("/dev/null", os.O_RDWR), errno.ENODEV, id="/dev/null"),
        pytest.param(opened("/proc/self/mem", os.O_RDWR), errno.EINVAL, id="/proc/self/mem"),
        pytest.param(lambda _: os.eventfd(0), errno.ENODEV, id="eventfd"),
        pytest.param(lambda _: os.memfd_create("empty"), errno.EINVAL, id="empty file"),
        pytest.param(lambda _: socket.socket().detach(), errno.ENODEV, id="socket"),
        pytest.param(_memory_file_for_writing, errno.EACCES, id="write-only"),
        pytest.param(opened("{}", os.O_PATH), errno.ENODEV, id="path of a directory"),
    ],
)
def test_what_is_no_memory_is_refused(
    client: Client, tmp_path: Path, open_: Callable[[Path], int], number: int
) -> None:
    fd = open_(tmp_path)
    try:
        with refused(number):
            client.dma_map(BASE, PAGE, fd=fd)
    finally:
        os.close(fd)
    client.dma_map(BASE, PAGE)


def test_a_pipe_is_no_memory(client: Client) -> None:
    ends = os.pipe()
    try:
        for fd in ends:
            with refused(errno.ENODEV):
                client.dma_map(BASE, PAGE, fd=fd)
    finally:
        for fd in ends:
            os.close(fd)


def test_as_many_ranges_as_announced_fit_into_few_descriptors(
    client: Client, server: DeviceServer, file: int
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (file + 10, limits[1]))
    try:
        for number in range(500):
            client.dma_map(2 * number * PAGE, PAGE, fd=file)
        assert server.session is not None
        memory = server.session.memory
        # The rest without their messages, which take long.
        for number in range(500, client.peer.max_dma_maps):
            memory.map(2 * number * PAGE, PAGE, RW, file, number % 2 * PAGE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(memory.mappings) == client.peer.max_dma_maps == guest_memory.MAX_MAPS
    with refused(errno.ENOSPC):
        client.dma_map(1 << 40, PAGE, fd=file)
    client.dma_unmap_all()


@pytest.mark.parametrize("address", [(1 << 64) - 4, (1 << 64) - 1, 1 << 64])
def test_an_access_beyond_the_address_space_is_efault(address: int) -> None:
    def ask(address: int, count: object) -> bytes:
        pytest.fail("the client was asked")

    memory = GuestMemory(ask, ask)  # type: ignore[arg-type]
    with refused(errno.EFAULT):
        memory.read(address, 8)
    with refused(errno.EFAULT):
        memory.write(address, bytes(8))


def test_the_file_of_a_mapped_array_cannot_be_cut_short(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    with (
        ImsFunction(ImsFunctionSpec(ims_mapped=True)) as function,
        device_server(function, ends[0]),
        Client(ends[1]) as client,
    ):
        request = wire.RegionInfo(32, index=regs.BAR_IMS)
        reply = client.call(Command.DEVICE_GET_REGION_INFO, request.pack())
        for size in (0, regs.BAR_IMS_SIZE + PAGE):
            with refused(errno.EPERM):
                os.ftruncate(reply.fds[0], size)
        reply.close_fds()
        assert len(client.region_read(regs.BAR_IMS, 0, 4)) == 4


# Interrupts


@pytest.fixture(params=[Signaller, PollingSignaller])
def any_signaller(request: pytest.FixtureRequest) -> Signaller | PollingSignaller:
    made = request.param()
    assert isinstance(made, Signaller | PollingSignaller)
    return made


def test_a_signal_adds_one(any_signaller: Signaller | PollingSignaller) -> None:
    fd = os.eventfd(0)
    try:
        for _ in range(1000):  # more than the kernel keeps notifications of
            any_signaller.signal(fd)
        assert os.eventfd_read(fd) == 1000
    finally:
        os.close(fd)


def test_a_full_eventfd_holds_no_signal_up(any_signaller: Signaller | PollingSignaller) -> None:
    fd = os.eventfd(0)
    try:
        os.eventfd_write(fd, (1 << 64) - 2)
        Signaller().signal(fd)  # to the value that only the kernel can reach: POLLERR
        thread = threading.Thread(target=any_signaller.signal, args=(fd,))
        thread.start()
        thread.join(2)
        stuck = thread.is_alive()
        assert os.eventfd_read(fd) == (1 << 64) - 1  # frees a thread that waits for room
        thread.join()
        assert not stuck
    finally:
        os.close(fd)


def test_an_eventfd_filled_by_the_client_does_not_stop_the_server(client: Client) -> None:
    fd = os.eventfd(0)
    try:
        client.wire_irqs(MSI, 0, [fd])
        os.eventfd_write(fd, (1 << 64) - 2)
        client.trigger_irqs(MSI, 0, 1)
        client.trigger_irqs(MSI, 0, 1)
        assert client.irq_info(MSI) == IrqIndex(8, IrqInfoFlags.EVENTFD | IrqInfoFlags.NORESIZE)
    finally:
        os.close(fd)


def test_all_vectors_of_a_device_can_be_wired_under_a_low_limit_of_open_files(
    ends: tuple[socket.socket, socket.socket], file: int
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    fd = os.eventfd(0)
    try:
        with (
            ImsFunction(ImsFunctionSpec(msix_vectors=2048)) as function,
            device_server(function, ends[0]),
            Client(ends[1]) as client,
        ):
            client.wire_irqs(IrqIndexNumber.MSIX, 0, [fd] * 2048)
            client.trigger_irqs(IrqIndexNumber.MSIX, 0, 2048)
            assert os.eventfd_read(fd) == 2048
    finally:
        os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_this_host_signals_without_waiting() -> None:
    assert isinstance(signaller(), Signaller)
