"""Fixtures of the protocol tests: a served device, and the proof that nothing stays behind."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from harness.host.deadline import Deadline
from harness.vfio_user.client import Client
from harness.vfio_user.server import DeviceServer, device_server
from tests.protocol.scratch_device import ScratchDevice

THREADS_END_SECONDS = 20.0
"""How long what was told to end may take: longer than paramiko lets a handshake take."""


def open_files() -> dict[str, str]:
    """Return this process's file descriptors and what they are."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the listing's own
            continue
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Assert that a test leaves no file descriptor and no thread."""
    files, threads = open_files(), set(threading.enumerate())
    yield
    # A thread that has been told to end may not have come to it: on a loaded machine paramiko's
    # timer of a handshake outlives its connection for a while.
    deadline = Deadline(THREADS_END_SECONDS, "the end of every thread")
    for thread in set(threading.enumerate()) - threads:
        thread.join(deadline.remaining())
    assert set(threading.enumerate()) - threads == set()
    assert open_files() == files


@pytest.fixture
def device() -> Iterator[ScratchDevice]:
    device = ScratchDevice()
    yield device
    device.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection: the server's end and the client's."""
    server_end, client_end = socket.socketpair()
    with server_end, client_end:
        yield server_end, client_end


@pytest.fixture
def server(
    device: ScratchDevice, ends: tuple[socket.socket, socket.socket]
) -> Iterator[DeviceServer]:
    with device_server(device, ends[0]) as server:
        yield server


@pytest.fixture
def client(server: DeviceServer, ends: tuple[socket.socket, socket.socket]) -> Iterator[Client]:
    with Client(ends[1]) as client:
        yield client
