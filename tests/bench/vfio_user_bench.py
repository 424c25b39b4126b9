"""How fast the vfio-user server answers the in-tree client, each in a process of its own."""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness.host.deadline import Deadline
from harness.host.process import running
from harness.spec.vfio import IrqInfoFlags, RegionFlags
from harness.vfio_user.client import Client
from harness.vfio_user.device import Bus, IrqIndex, Region
from harness.vfio_user.server import device_server
from harness.vfio_user.wire import HEADER, RegionAccess

_SECONDS = 60.0  # for either measurement

_REQUEST = HEADER.size + RegionAccess.FORMAT.size  # bytes of a read
_REPLY = _REQUEST + 4


class FourBytes:
    """The smallest device: one region of 4 bytes."""

    def __init__(self) -> None:
        self.value = bytes(4)
        self.regions: Sequence[Region] = (Region(4, RegionFlags.READ | RegionFlags.WRITE),)
        self.irqs: Sequence[IrqIndex] = (IrqIndex(0, IrqInfoFlags(0)),)

    def attached(self, bus: Bus) -> None:
        pass

    def detached(self) -> None:
        pass

    def reset(self) -> None:
        pass

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        return self.value[offset : offset + count]

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        if len(data) == 4:
            self.value = data

    def irqs_wanted(self, index: int, numbers: range) -> None:
        pass

    def irqs_changed(self, index: int, start: int, count: int) -> None:
        pass


@contextlib.contextmanager
def _other_process(does: str) -> Iterator[socket.socket]:
    """Hold a socket to another process of this module."""
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryDirectory() as directory:
        fd = theirs.fileno()
        argv = [sys.executable, __file__, does, str(fd)]
        with running(argv, name=does, log=Path(directory, "log"), pass_fds=[fd]):
            theirs.close()
            yield ours


@contextlib.contextmanager
def _client() -> Iterator[Client]:
    """Hold a client of a server in another process."""
    with _other_process("serve") as connection, Client(connection) as client:
        yield client


def _timed(call: Callable[[], object], n: int) -> list[float]:
    """Return the seconds that each of ``n`` calls took, after some that are not counted."""
    for _ in range(n // 10):
        call()
    clock = time.perf_counter
    result = []
    for _ in range(n):
        start = clock()
        call()
        result.append(clock() - start)
    return result


def read_round_trips(n: int) -> list[float]:
    """Return the seconds that each of ``n`` reads of 4 bytes took."""
    with _client() as client:
        return _timed(lambda: client.region_read(0, 0, 4), n)


def echo_round_trips(n: int) -> list[float]:
    """Return the seconds that as many bytes took there and back, with nothing done to them."""
    with _other_process("echo") as connection:

        def call() -> None:
            connection.sendall(bytes(_REQUEST))
            connection.recv(_REPLY)

        return _timed(call, n)


def posted_writes_per_second(n: int) -> float:
    """Return how many writes of 4 bytes without reply the server takes in a second, of ``n``."""
    with _client() as client:
        start = time.perf_counter()
        for _ in range(n):
            client.region_write(0, 0, b"\1\2\3\4", posted=True)
        # The server answers in order: this read comes back when every write has been carried out.
        assert client.region_read(0, 0, 4) == b"\1\2\3\4"
        return n / (time.perf_counter() - start)


def _serve(connection: socket.socket) -> None:
    with device_server(FourBytes(), connection) as server:
        server.wait_until_gone(Deadline(_SECONDS, "the end of the measurement"))


def _echo(connection: socket.socket) -> None:
    with connection:
        while connection.recv(_REQUEST):
            connection.sendall(bytes(_REPLY))


if __name__ == "__main__":
    {"serve": _serve, "echo": _echo}[sys.argv[1]](socket.socket(fileno=int(sys.argv[2])))
