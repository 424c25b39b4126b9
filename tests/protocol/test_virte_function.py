"""What docs/virte.md leaves to the function: hostile accesses, many callers, a model that fails."""

from __future__ import annotations

import mmap
import random
import socket
import struct
import sys
import threading
from collections.abc import Iterator

import pytest

from harness.devices.virte_function import function as virte_function
from harness.devices.virte_function.function import VirteFunction
from harness.hypervisor.calls import Answered
from harness.hypervisor.host import Blocked, Host
from harness.hypervisor.partition import Partition
from harness.hypervisor.policy import DeliveryPath, Policy
from harness.spec.msi import Message
from harness.spec.pci import RequesterId
from harness.vfio_user.client import Client
from harness.vfio_user.server import device_server
from tests.protocol import virte_client as virte
from tests.protocol.virte_client import VirteClient, ims


def test_a_flaw_of_the_model_fails_the_test_and_answers_the_guest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def flawed(partition: Partition, frame: bytes) -> Answered:
        raise ZeroDivisionError("a flaw")

    ours, theirs = socket.socketpair()
    function = VirteFunction(Host(16, lambda: 0.0))
    seen = []

    def serve() -> None:
        with function, device_server(function, theirs) as server, Client(ours) as client:
            guest = VirteClient(client)
            guest.set_up()
            assert guest.negotiate().status == virte.OK
            monkeypatch.setattr(virte_function, "carry_out", flawed)
            seen.append(guest.call(virte.MAP, ims()))
            monkeypatch.undo()
            seen.append(guest.call(virte.MAP, ims()))
            assert server.failure is not None

    with pytest.raises(ZeroDivisionError, match="a flaw"):
        serve()
    assert [called.status for called in seen] == [virte.FAILED, virte.OK]


def test_no_access_is_unanswered_and_the_unsound_ones_are_counted() -> None:
    chance = random.Random(20261121)
    ours, theirs = socket.socketpair()
    with (
        VirteFunction(Host(16, lambda: 0.0), mapped=False) as function,
        device_server(function, theirs),
        Client(ours, dma_write=lambda address, data: None) as client,
    ):
        guest = VirteClient(client)
        guest.set_up()
        for _ in range(2000):
            region, size = chance.choice([(0, 0x10000), (2, 0x20000), (4, 0x80000)])
            count = chance.choice([1, 2, 4, 8])
            offset = chance.randrange(size - count)
            if chance.random() < 0.5:
                client.region_write(region, offset, chance.randbytes(count))
            else:
                client.region_read(region, offset, count)
        assert guest.register(0) == 0x54524956
        assert guest.register(0x1C) == function.refusals.count > 0


def test_messages_that_no_device_was_given_are_blocked_and_counted() -> None:
    ours, theirs = socket.socketpair()
    host = Host(16, lambda: 0.0)
    with VirteFunction(host) as function, device_server(function, theirs), Client(ours) as client:
        guest = VirteClient(client)
        guest.set_up()
        guest.negotiate()
        for page in range(4):
            client.region_write(4, page << 12 | 4, bytes(4))
        guest.register(0)
        assert host.blocked == {Blocked.NO_HANDLE: 4}


def test_callers_in_frames_of_their_own_do_not_disturb_each_other() -> None:
    ours, theirs = socket.socketpair()
    host = Host(4096, lambda: 0.0)
    wrong: list[object] = []
    with VirteFunction(host) as function, device_server(function, theirs), Client(ours) as client:
        guest = VirteClient(client)
        guest.set_up()
        guest.negotiate()

        def caller(frame: int) -> None:
            for number in range(50):
                called = guest.call(virte.MAP, ims(frame << 8 | number), frame=frame)
                if called.status != virte.OK or called.entries[0].address == 0:
                    wrong.append(called)

        threads = [threading.Thread(target=caller, args=(frame,)) for frame in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        handles = [entry.handle for entry in function.partition.entries()]
        assert len(set(handles)) == 8 * 50


@pytest.fixture
def impatient_threads() -> Iterator[None]:
    """Let threads take turns much more often than they would."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("impatient_threads")
def test_hostile_callers_at_once_get_a_status_each_and_the_books_stay_whole() -> None:
    """Anything in any frame, which others rewrite meanwhile; and messages from anywhere."""
    ours, theirs = socket.socketpair()
    host = Host(16, lambda: 0.0)
    statuses: set[int] = set()
    over = threading.Event()
    with (
        VirteFunction(host) as function,
        device_server(function, theirs) as server,
        Client(ours, dma_write=lambda address, data: None) as client,
    ):
        guest = VirteClient(client)
        guest.set_up()
        fd = function.regions[2].fd
        assert fd is not None
        frames = mmap.mmap(fd, 0)

        def call(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(60):
                frame = chance.randrange(4)
                head = struct.pack("<HHI", chance.randrange(9), chance.choice([0, 1, 3, 64]), 0)
                version = (0x10000, 7) if head[0] == virte.NEGOTIATE else (0, 0)
                frames[frame << 13 : (frame << 13) + 16] = head + struct.pack("<II", *version)
                statuses.add(guest.register(0x1000 + 4 * frame))

        def scribble() -> None:
            chance = random.Random(1)
            while not over.is_set():
                at = chance.randrange(4) << 13 | 0x40 * chance.randrange(1, 65)
                entry = struct.pack("<BBHHH", chance.randrange(5), 8, 0x100, 1, 0)
                entry += struct.pack("<I", chance.randrange(8)) + bytes(20)
                frames[at : at + 32] = chance.choice([entry, chance.randbytes(32)])

        def send() -> None:
            chance = random.Random(2)
            while not over.is_set():
                requester = RequesterId(chance.choice([0x100, 0x108]))
                address = 4 * chance.randrange(1 << 11)
                function.translate(Message(address, chance.randrange(32)), requester)

        callers = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
        others = [threading.Thread(target=work) for work in (scribble, send)]
        for thread in (*callers, *others):
            thread.start()
        for thread in callers:
            thread.join()
        over.set()
        for thread in others:
            thread.join()
        frames.close()
        assert server.failure is None
        assert statuses <= set(range(10))
        assert {virte.OK, virte.INVALID, virte.UNSUPPORTED, virte.NOT_NEGOTIATED} <= statuses
        assert host.handles.free + function.partition.live == 16
        assert host.blocked.total()


@pytest.mark.parametrize("path", list(DeliveryPath))
def test_both_ways_of_delivery_arrive(path: DeliveryPath) -> None:
    ours, theirs = socket.socketpair()
    arrived = threading.Event()
    host = Host(16, lambda: 0.0)
    with (
        VirteFunction(host, Policy(delivery=path)) as function,
        device_server(function, theirs),
        Client(ours, dma_write=lambda address, data: arrived.set()) as client,
    ):
        guest = VirteClient(client)
        guest.set_up()
        guest.negotiate()
        pair = guest.map(ims())
        guest.send(pair.address, pair.data)
        assert arrived.wait(5)
    assert host.handled == (path is DeliveryPath.HOST_HANDLER)


def test_without_bus_mastering_nothing_is_injected() -> None:
    ours, theirs = socket.socketpair()
    arrived = threading.Event()
    with (
        VirteFunction(Host(16, lambda: 0.0)) as function,
        device_server(function, theirs),
        Client(ours, dma_write=lambda address, data: arrived.set()) as client,
    ):
        guest = VirteClient(client)
        guest.set_up()
        guest.negotiate()
        pair = guest.map(ims())
        guest.write_config(0x04, 2, 0x2)
        guest.send(pair.address, pair.data)
        guest.register(0)
        assert not arrived.is_set()
