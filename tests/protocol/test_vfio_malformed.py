"""One bad field on a sound message: the exact errno, and a server that goes on."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading

import pytest

from harness.spec.vfio import Command, IrqSetFlags, MessageFlags
from harness.vfio_user import wire
from harness.vfio_user.client import Client
from harness.vfio_user.server import DeviceServer, device_server
from harness.vfio_user.wire import HEADER, MAX_MESSAGE, WireMessage
from tests.protocol.scratch_device import MEMORY, SHORT, ScratchDevice
from tests.protocol.vfio_checks import ending_with, eventfds, refused, soon

ACCESS = wire.RegionAccess(0, MEMORY, 4).pack()
IRQ_SET = wire.IrqSet(
    20, IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_TRIGGER, index=1, start=0, count=1
)


@pytest.mark.parametrize(
    ("command", "payload", "number"),
    [
        pytest.param(0, b"", errno.ENOTSUP, id="command 0"),
        pytest.param(Command.DIRTY_PAGES, b"", errno.ENOTSUP, id="old dirty page log"),
        pytest.param(Command.DEVICE_FEATURE, bytes(8), errno.ENOTSUP, id="migration feature"),
        pytest.param(Command.MIG_DATA_READ, bytes(8), errno.ENOTSUP, id="migration read"),
        pytest.param(Command.MIG_DATA_WRITE, bytes(8), errno.ENOTSUP, id="migration write"),
        pytest.param(0xFFFF, b"", errno.ENOTSUP, id="unknown command"),
        pytest.param(Command.DMA_READ, bytes(16), errno.ENOTSUP, id="a server's command"),
        pytest.param(Command.DEVICE_GET_INFO, bytes(15), errno.EINVAL, id="info: too short"),
        pytest.param(Command.DEVICE_GET_INFO, bytes(17), errno.EINVAL, id="info: too long"),
        pytest.param(
            Command.DEVICE_GET_INFO, wire.DeviceInfo(15).pack(), errno.EINVAL, id="info: argsz"
        ),
        pytest.param(
            Command.DEVICE_GET_INFO, wire.DeviceInfo(16, 1).pack(), errno.EINVAL, id="info: flags"
        ),
        pytest.param(
            Command.DEVICE_GET_REGION_INFO, bytes(31), errno.EINVAL, id="region info: too short"
        ),
        pytest.param(
            Command.DEVICE_GET_REGION_INFO,
            wire.RegionInfo(31).pack(),
            errno.EINVAL,
            id="region info: argsz",
        ),
        pytest.param(
            Command.DEVICE_GET_REGION_INFO,
            wire.RegionInfo(32, index=5).pack(),
            errno.EINVAL,
            id="region info: index",
        ),
        pytest.param(
            Command.DEVICE_GET_REGION_INFO,
            wire.RegionInfo(32, cap_offset=32).pack(),
            errno.EINVAL,
            id="region info: field that must be 0",
        ),
        pytest.param(
            Command.DEVICE_GET_REGION_IO_FDS,
            wire.RegionIoFds(15).pack(),
            errno.EINVAL,
            id="io fds: argsz",
        ),
        pytest.param(
            Command.DEVICE_GET_REGION_IO_FDS,
            wire.RegionIoFds(16, flags=1).pack(),
            errno.EINVAL,
            id="io fds: flags",
        ),
        pytest.param(
            Command.DEVICE_GET_REGION_IO_FDS,
            wire.RegionIoFds(16, index=5).pack(),
            errno.EINVAL,
            id="io fds: index",
        ),
        pytest.param(
            Command.DEVICE_GET_IRQ_INFO, wire.IrqInfo(15).pack(), errno.EINVAL, id="irq info: argsz"
        ),
        pytest.param(
            Command.DEVICE_GET_IRQ_INFO,
            wire.IrqInfo(16, index=5).pack(),
            errno.EINVAL,
            id="irq info: index",
        ),
        pytest.param(
            Command.DEVICE_GET_IRQ_INFO,
            wire.IrqInfo(16, count=1).pack(),
            errno.EINVAL,
            id="irq info: field that must be 0",
        ),
        pytest.param(
            Command.DEVICE_SET_IRQS, IRQ_SET.pack()[:-1], errno.EINVAL, id="set irqs: too short"
        ),
        pytest.param(
            Command.DEVICE_SET_IRQS,
            wire.IrqSet(19, IRQ_SET.flags, 1, 0, 1).pack(),
            errno.EINVAL,
            id="set irqs: argsz too small",
        ),
        pytest.param(
            Command.DEVICE_SET_IRQS,
            wire.IrqSet(24, IRQ_SET.flags, 1, 0, 1).pack(),
            errno.EINVAL,
            id="set irqs: argsz too large",
        ),
        pytest.param(Command.REGION_READ, ACCESS[:-1], errno.EINVAL, id="read: too short"),
        pytest.param(Command.REGION_READ, ACCESS + b"\0", errno.EINVAL, id="read: with data"),
        pytest.param(
            Command.REGION_READ,
            wire.RegionAccess(4093, MEMORY, 4).pack(),
            errno.EINVAL,
            id="read: beyond the end",
        ),
        pytest.param(
            Command.REGION_READ,
            wire.RegionAccess((1 << 64) - 2, MEMORY, 4).pack(),
            errno.EINVAL,
            id="read: range that wraps",
        ),
        pytest.param(
            Command.REGION_READ,
            wire.RegionAccess(0, MEMORY, 0).pack(),
            errno.EINVAL,
            id="read: of nothing",
        ),
        pytest.param(
            Command.REGION_READ,
            wire.RegionAccess(0, MEMORY, 0xFFFFFFFF).pack(),
            errno.E2BIG,
            id="read: too much",
        ),
        pytest.param(Command.REGION_WRITE, ACCESS + bytes(3), errno.EINVAL, id="write: data short"),
        pytest.param(Command.REGION_WRITE, ACCESS + bytes(5), errno.EINVAL, id="write: data long"),
        pytest.param(Command.REGION_WRITE_MULTI, bytes(7), errno.EINVAL, id="multi: too short"),
        pytest.param(
            Command.REGION_WRITE_MULTI, wire.WriteCount(0).pack(), errno.EINVAL, id="multi: none"
        ),
        pytest.param(
            Command.REGION_WRITE_MULTI,
            wire.WriteCount(2).pack() + wire.SingleWrite(0, 0, 1, bytes(8)).pack(),
            errno.EINVAL,
            id="multi: one missing",
        ),
        pytest.param(
            Command.REGION_WRITE_MULTI,
            wire.WriteCount(1 << 63).pack() + wire.SingleWrite(0, 0, 1, bytes(8)).pack(),
            errno.EINVAL,
            id="multi: count beyond all messages",
        ),
        pytest.param(
            Command.REGION_WRITE_MULTI,
            wire.WriteCount(1).pack() + wire.SingleWrite(0, 0, 9, bytes(8)).pack(),
            errno.EINVAL,
            id="multi: more than 8 bytes",
        ),
        pytest.param(Command.DEVICE_RESET, b"\0", errno.EINVAL, id="reset: with data"),
    ],
)
def test_a_malformed_message_is_refused(
    client: Client, device: ScratchDevice, command: int, payload: bytes, number: int
) -> None:
    with refused(number):
        client.call(command, payload)
    client.device_info()
    assert device.log == [("attached",)]


@pytest.mark.parametrize("flags", [MessageFlags.ERROR, 2, 0xF, 1 << 6, 1 << 31])
def test_flags_that_a_command_cannot_have_are_refused(client: Client, flags: int) -> None:
    with refused(errno.EINVAL):
        client.call(Command.DEVICE_RESET, flags=flags)
    client.device_info()


@pytest.mark.parametrize(
    ("command", "payload"),
    [
        (Command.DEVICE_GET_INFO, wire.DeviceInfo(16).pack()),
        (Command.REGION_READ, ACCESS),
        (Command.DEVICE_RESET, b""),
        (Command.DMA_UNMAP, wire.DmaUnmap(24, 0, 0, 4096).pack()),
    ],
)
def test_descriptors_that_a_command_does_not_take_are_refused_and_closed(
    client: Client, command: int, payload: bytes
) -> None:
    with eventfds(3) as fds, refused(errno.EINVAL):
        client.call(command, payload, fds)
    client.device_info()


def test_more_descriptors_than_announced_are_refused_and_closed(client: Client) -> None:
    with eventfds(17) as fds, refused(errno.EINVAL):
        client.set_irqs(2, 0, 17, IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_TRIGGER, fds=fds)
    client.device_info()


def test_descriptors_of_a_posted_command_that_fails_are_closed(client: Client) -> None:
    with eventfds(2) as fds:
        client._channel.send(
            WireMessage(9, Command.DEVICE_RESET, MessageFlags.NO_REPLY, b"", 0, list(fds))
        )
    client.device_info()


def test_a_reply_to_nothing_is_dropped(client: Client) -> None:
    with eventfds(1) as fds:
        client._channel.send(
            WireMessage(77, Command.DMA_READ, MessageFlags.REPLY, bytes(20), 0, list(fds))
        )
    client.device_info()


def test_a_device_that_returns_too_little_is_a_failure_of_the_device(
    device: ScratchDevice, ends: tuple[socket.socket, socket.socket]
) -> None:
    with (
        ending_with(ValueError, match="returned 3 bytes"),
        device_server(device, ends[0]),
        Client(ends[1]) as client,
    ):
        with refused(errno.EIO):
            client.region_read(MEMORY, SHORT, 4)
        client.device_info()


@pytest.mark.parametrize("size", [0, 15, MAX_MESSAGE + 1, 0xFFFFFFFF])
def test_a_size_that_cannot_be_right_is_refused_and_ends_the_connection(
    server: DeviceServer, ends: tuple[socket.socket, socket.socket], size: int
) -> None:
    header = HEADER.pack(0x1234, Command.DEVICE_RESET, size, 0, 0)
    ends[1].settimeout(5)
    ends[1].sendall(header + b"the rest is noise")
    assert ends[1].recv(100) == HEADER.pack(0x1234, Command.DEVICE_RESET, 16, 0x21, errno.EINVAL)
    assert end_of(ends[1])
    server.wait_until_gone(soon("the server's end"))


def end_of(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:  # what we sent was not read to the end
        return True


def test_a_message_may_come_in_pieces(client: Client, server: DeviceServer) -> None:
    message = WireMessage(5, Command.REGION_READ, 0, ACCESS).pack()
    ours, theirs = socket.socketpair()
    with ours, theirs, ScratchServer(theirs):
        ours.settimeout(5)
        version = WireMessage(1, Command.VERSION, 0, wire.Version(0, 0).pack()).pack()
        for byte in version + message:
            ours.sendall(bytes([byte]))
        replies = b""
        while len(replies) < 20 + 16 + 16 + 4:
            replies += ours.recv(100)
        assert replies[20:] == HEADER.pack(5, Command.REGION_READ, 36, 1, 0) + ACCESS + bytes(4)


class ScratchServer:
    """A served scratch device of its own."""

    def __init__(self, connection: socket.socket):
        self.device = ScratchDevice()
        self._server = device_server(self.device, connection)

    def __enter__(self) -> DeviceServer:
        return self._server.__enter__()

    def __exit__(self, *error: object) -> None:
        self._server.__exit__(None, None, None)
        self.device.close()


def test_many_messages_may_come_at_once(ends: tuple[socket.socket, socket.socket]) -> None:
    server_end, ours = ends
    with ScratchServer(server_end):
        ours.settimeout(5)
        stream = WireMessage(0, Command.VERSION, 0, wire.Version(0, 0).pack()).pack()
        stream += b"".join(
            WireMessage(n, Command.REGION_READ, 0, ACCESS).pack() for n in range(1, 3000)
        )
        writer = threading.Thread(target=ours.sendall, args=(stream,))
        writer.start()
        replies = b""
        while len(replies) < 20 + 36 * 2999:
            replies += ours.recv(1 << 16)
        writer.join()
        ids = [HEADER.unpack_from(replies, 20 + 36 * n)[0] for n in range(2999)]
        assert ids == list(range(1, 3000))


def test_descriptors_stay_with_their_message_in_a_stream(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    server_end, ours = ends
    wired = IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_TRIGGER
    with ScratchServer(server_end), eventfds(8) as fds:
        ours.settimeout(5)
        ours.sendall(WireMessage(0, Command.VERSION, 0, wire.Version(0, 0).pack()).pack())
        for vector, fd in enumerate(fds):
            ours.sendall(WireMessage(1, Command.REGION_READ, 0, ACCESS).pack())
            set_irqs = wire.IrqSet(20, wired, 1, vector, 1).pack()
            socket.send_fds(
                ours, [WireMessage(2, Command.DEVICE_SET_IRQS, 0, set_irqs).pack()], [fd]
            )
            ours.sendall(WireMessage(3, Command.REGION_READ, 0, ACCESS).pack())
        replies = b""
        while len(replies) < 20 + 8 * (36 + 16 + 36):
            replies += ours.recv(1 << 16)
        place, errors = 20, []
        while place < len(replies):
            _, _, size, _, error = HEADER.unpack_from(replies, place)
            errors.append(error)
            place += size
        assert errors == [0] * 24


def test_a_descriptor_lost_to_a_full_table_of_open_files_is_an_error_reply(
    client: Client, server: DeviceServer
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    fd = os.memfd_create("memory")
    os.ftruncate(fd, 4096)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (fd + 1, limits[1]))
        # Without its descriptor this looks like a sound request for memory served by messages.
        with refused(errno.EINVAL):
            client.dma_map(0, 4096, fd=fd)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(fd)
    assert server.session is not None
    assert server.session.memory.mappings == ()


def test_a_reply_that_names_another_command_is_dropped(
    device: ScratchDevice, ends: tuple[socket.socket, socket.socket]
) -> None:
    with device_server(device, ends[0]):
        ours = ends[1]
        ours.settimeout(5)
        ours.sendall(WireMessage(0, Command.VERSION, 0, wire.Version(0, 0).pack()).pack())
        ours.recv(100)
        assert device.bus is not None
        verdict = device.bus.send_message(0xFEE00000, 0x21)
        ident, command, _, _, _ = HEADER.unpack_from(ours.recv(100))
        assert command == Command.DMA_WRITE
        asked = WireMessage(ident, command)
        ours.sendall(WireMessage(ident, Command.DMA_READ, MessageFlags.REPLY).pack())
        ours.sendall(asked.error_reply(errno.EFAULT).pack())
        with refused(errno.EFAULT):
            verdict.result(5)
