"""What docs/virte.md leaves to the function: hostile accesses, many callers, a model that fails."""

from __future__ import annotations

import random
import socket
import threading

import pytest

from harness.devices.virte_function import function as virte_function
from harness.devices.virte_function.function import VirteFunction
from harness.hypervisor.calls import Answered
from harness.hypervisor.host import Blocked, Host
from harness.hypervisor.partition import Partition
from harness.hypervisor.policy import DeliveryPath, Policy
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
