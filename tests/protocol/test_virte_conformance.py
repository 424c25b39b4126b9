"""The numbered statements of docs/virte.md, "Conformance", from the text alone."""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.devices.virte_function.function import VirteFunction
from harness.hypervisor.host import Host
from harness.hypervisor.policy import DeliveryPath, Policy, StormLimit
from harness.spec.hypercall import CallStatus, Operation
from harness.vfio_user.client import Client
from harness.vfio_user.server import device_server
from tests.protocol import virte_client as virte
from tests.protocol.virte_client import VirteClient, entry, ims

statement = pytest.mark.statement
DOCUMENT = Path(__file__).parents[2] / "docs" / "virte.md"


@dataclass
class Hypervisor:
    """What only the other side can do: policy, and time."""

    policy: Policy
    now: float = 50.0


@contextlib.contextmanager
def running(hypervisor: Hypervisor, *, mapped: bool, size: int = 128) -> Iterator[VirteClient]:
    host = Host(size, lambda: hypervisor.now)
    ours, theirs = socket.socketpair()
    messages: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()

    def deliver(address: int, data: bytes) -> None:
        messages.put((address, int.from_bytes(data, "little")))

    with (
        VirteFunction(host, hypervisor.policy, mapped=mapped) as function,
        device_server(function, theirs),
        Client(ours, dma_write=deliver) as client,
    ):
        guest = VirteClient(client, messages)
        guest.set_up()
        yield guest


@pytest.fixture
def hypervisor() -> Hypervisor:
    return Hypervisor(Policy())


@pytest.fixture(params=["mapped", "trapped"])
def guest(request: pytest.FixtureRequest, hypervisor: Hypervisor) -> Iterator[VirteClient]:
    threads = threading.active_count()
    with running(hypervisor, mapped=request.param == "mapped") as guest:
        yield guest
    assert threading.active_count() == threads


@pytest.fixture
def granted(guest: VirteClient) -> VirteClient:
    assert guest.negotiate().status == virte.OK
    return guest


@statement(1)
def test_the_function_is_told_by_its_identity(guest: VirteClient) -> None:
    assert (guest.config(0, 2), guest.config(2, 2)) == (0x494D, 0x0002)
    assert guest.register(0x00) == 0x54524956
    assert guest.register(0x04) == 0x00010000
    assert guest.register(0x0C) == 0x2000 << 16 | 64 << 8 | 16


@statement(2)
@pytest.mark.parametrize(
    "operation", [virte.RELEASE, virte.MAP, virte.RETARGET, virte.UNMAP, virte.QUERY, virte.REVIVE]
)
def test_nothing_is_granted_before_negotiation(guest: VirteClient, operation: int) -> None:
    entries = [] if operation == virte.RELEASE else [ims()]
    called = guest.call(operation, *entries)
    assert called.status == virte.NOT_NEGOTIATED
    assert guest.register(0x18) == 0


@statement(3)
@pytest.mark.parametrize(
    ("version", "status"), [(0x10000, 0), (0x10005, 0), (0x20000, 4), (0, 4), (0xFFFF, 4)]
)
def test_the_lower_version_of_the_major_number(
    guest: VirteClient, version: int, status: int
) -> None:
    called = guest.negotiate(version, features=0b100101)
    assert called.status == status
    assert (called.version, called.features) == ((0x10000, 0b101) if status == 0 else (0, 0))


@statement(4)
def test_a_refusal_leaves_the_old_scheme(granted: VirteClient, hypervisor: Hypervisor) -> None:
    granted.map(ims())
    hypervisor.policy.grant = False
    assert granted.negotiate().status == virte.DENIED
    assert granted.register(0x10) & 1 == 0
    assert granted.register(0x18) == 0


@statement(5)
def test_a_pair_reaches_its_cpu_and_vector(granted: VirteClient) -> None:
    pair = granted.map(ims(destination=3, vector=0x51))
    assert granted.arrival(pair.address, pair.data) == (3, 0x51)


@statement(6)
def test_mapping_again_moves_the_same_pair(granted: VirteClient) -> None:
    first, again = granted.map(ims(vector=0x51)), granted.map(ims(vector=0x52))
    assert (first.handle, first.address, first.data) == (again.handle, again.address, again.data)
    assert granted.arrival(first.address, first.data) == (1, 0x52)


@statement(7)
@pytest.mark.parametrize("status", [CallStatus.NO_HANDLES, CallStatus.DENIED, CallStatus.FAILED])
def test_a_failure_has_the_null_message(
    granted: VirteClient, hypervisor: Hypervisor, status: CallStatus
) -> None:
    granted.map(ims())  # its answer stands in the frame
    hypervisor.policy.fail(Operation.MAP, status)
    (answer,) = granted.call(virte.MAP, ims(1)).entries
    assert answer.status == status
    assert (answer.address, answer.data, answer.handle) == (0, 0, 0)


@statement(8)
def test_a_retarget_moves_and_leaves_the_pair(granted: VirteClient) -> None:
    pair = granted.map(ims())
    called = granted.call(virte.RETARGET, entry(handle=pair.handle, destination=2, vector=0x77))
    assert (called.entries[0].address, called.entries[0].data) == (pair.address, pair.data)
    assert granted.arrival(pair.address, pair.data) == (2, 0x77)


@statement(9)
def test_a_failed_retarget_changes_nothing(granted: VirteClient, hypervisor: Hypervisor) -> None:
    pair = granted.map(ims())
    hypervisor.policy.fail(Operation.RETARGET, CallStatus.NO_HANDLES)
    called = granted.call(virte.RETARGET, entry(handle=pair.handle, destination=2, vector=0x77))
    assert called.status == virte.NO_HANDLES
    assert granted.arrival(pair.address, pair.data) == (1, 64)


@statement(10)
def test_an_unmapped_handle_is_dead(granted: VirteClient) -> None:
    pair = granted.map(ims())
    assert granted.call(virte.UNMAP, entry(handle=pair.handle, count=1)).status == virte.OK
    assert granted.call(virte.QUERY, entry(handle=pair.handle)).status == virte.NO_SUCH_HANDLE
    assert granted.arrival(pair.address, pair.data) is None


@statement(11)
def test_a_dead_handle_does_not_come_back(hypervisor: Hypervisor) -> None:
    with running(hypervisor, mapped=True, size=1) as guest:
        guest.negotiate()
        dead = guest.map(ims())
        guest.call(virte.UNMAP, entry(handle=dead.handle, count=1))
        live = guest.map(ims(1))
        assert live.handle != dead.handle
        assert guest.arrival(dead.address, dead.data) is None
        assert guest.arrival(live.address, live.data) == (1, 64)


@statement(12)
def test_a_batch_ends_at_its_first_failure(granted: VirteClient) -> None:
    called = granted.call(virte.MAP, ims(0), ims(1), ims(2, vector=3), ims(3))
    assert (called.status, called.done) == (virte.INVALID, 2)
    statuses = [answer.status for answer in called.entries]
    assert statuses == [virte.OK, virte.OK, virte.INVALID, virte.NOT_ATTEMPTED]
    assert [answer.address for answer in called.entries[2:]] == [0, 0]


@statement(13)
def test_64_entries_are_one_trapped_access(hypervisor: Hypervisor) -> None:
    host = Host(64, lambda: 0.0)
    ours, theirs = socket.socketpair()
    with (
        VirteFunction(host) as function,
        device_server(function, theirs),
        Client(ours) as client,
    ):
        guest = VirteClient(client)
        guest.set_up()
        guest.negotiate()
        mark = function.accesses.mark()
        called = guest.call(virte.MAP, *(ims(index) for index in range(64)))
        trapped = sum(count.total for count in function.accesses.counts_since(mark).values())
    assert (called.status, called.done, trapped) == (virte.OK, 64, 1)
    assert len({answer.handle for answer in called.entries}) == 64


@statement(14)
def test_an_msi_block_is_one_pair(granted: VirteClient) -> None:
    granted.map(ims())
    pair = granted.map(entry(store=virte.MSI, requester=0x100, count=4, vector=0x40))
    assert (pair.granted, pair.data % 4) == (4, 0)
    moves = [entry(handle=pair.handle + n, destination=n, vector=0x60 + n) for n in range(4)]
    granted.call(virte.RETARGET, *moves)
    reached = [granted.arrival(pair.address, pair.data + n) for n in range(4)]
    assert reached == [(n, 0x60 + n) for n in range(4)]
    assert granted.call(virte.UNMAP, entry(handle=pair.handle, count=1)).status == virte.INVALID
    assert granted.call(virte.UNMAP, entry(handle=pair.handle, count=4)).status == virte.OK
    assert [granted.arrival(pair.address, pair.data + n) for n in range(4)] == [None] * 4


@statement(15)
def test_a_partial_grant_is_enough(granted: VirteClient, hypervisor: Hypervisor) -> None:
    hypervisor.policy.quota = 7
    wanted = {"store": virte.MSI, "requester": 0x100, "count": 16, "vector": 0x40}
    assert granted.call(virte.MAP, entry(**wanted, least=8)).status == virte.NO_HANDLES
    assert granted.map(entry(**wanted, least=2)).granted == 4


@statement(16)
def test_a_parked_handle_delivers_nothing(granted: VirteClient) -> None:
    request = entry(store=virte.IMS, requester=0x100, count=1, flags=virte.PARKED)
    pair = granted.map(request)
    assert granted.arrival(pair.address, pair.data) is None
    granted.call(virte.RETARGET, entry(handle=pair.handle, destination=1, vector=0x40))
    assert granted.arrival(pair.address, pair.data) == (1, 0x40)


@statement(17)
@pytest.mark.parametrize("field", ["store", "index", "pasid", "count", "requester"])
def test_an_unused_field_must_be_zero(granted: VirteClient, field: str) -> None:
    handle = granted.map(ims()).handle
    stray = {"handle": handle, "vector": 0x40, field: 1}
    assert granted.call(virte.RETARGET, entry(**stray)).status == virte.INVALID


@statement(18)
def test_the_value_of_call_is_the_status(granted: VirteClient) -> None:
    for frame in (0, 15):
        called = granted.call(virte.MAP, ims(), frame=frame)
        assert called.value == called.status == virte.OK
        called = granted.call(99, frame=frame)
        assert called.value == called.status == virte.UNSUPPORTED


@statement(19)
@pytest.mark.parametrize("way", ["negotiate", "release", "flr", "reset"])
def test_a_reset_of_any_kind_gives_everything_back(granted: VirteClient, way: str) -> None:
    pairs = [granted.map(ims(index)) for index in range(8)]
    if way == "negotiate":
        granted.negotiate()
    elif way == "release":
        assert granted.call(virte.RELEASE).status == virte.OK
    elif way == "flr":
        express = granted.config(0x34, 1)
        granted.write_config(express + 8, 2, 1 << 15)
    else:
        granted.client.reset()
    assert granted.register(0x18) == 0
    granted.set_up()  # a reset has taken the BARs
    granted.negotiate()
    assert [granted.arrival(pair.address, pair.data) for pair in pairs] == [None] * 8


@statement(20)
def test_busy_says_when_to_come_back(granted: VirteClient, hypervisor: Hypervisor) -> None:
    hypervisor.policy.start_seconds = 0.5
    called = granted.call(virte.MAP, ims())
    assert (called.status, called.retry_us) == (virte.BUSY, 500_000)
    hypervisor.now += called.retry_us / 1e6
    pair = granted.map(ims())
    assert granted.arrival(pair.address, pair.data) == (1, 64)


@statement(21)
def test_another_functions_page_is_no_way_in(granted: VirteClient) -> None:
    pair, other = granted.map(ims()), granted.map(ims(requester=0x108))
    assert granted.arrival(other.address, pair.data) is None
    assert granted.arrival(other.address, other.data) == (1, 64)


@statement(22)
def test_a_storm_is_quenched_told_and_revived(granted: VirteClient, hypervisor: Hypervisor) -> None:
    hypervisor.policy.storm = StormLimit(4, 1.0)
    pair = granted.map(ims())
    reached = [granted.arrival(pair.address, pair.data) for _ in range(6)]
    assert reached == [(1, 64)] * 4 + [None] * 2
    assert granted.register(0x10) & 2
    called = granted.call(virte.QUERY, entry(handle=pair.handle))
    assert called.notices & 2
    (answer,) = called.entries
    assert (answer.state, answer.delivered, answer.blocked) == (2, 4, 2)
    assert granted.call(virte.REVIVE, entry(handle=pair.handle)).status == virte.OK
    assert granted.arrival(pair.address, pair.data) == (1, 64)


@statement(23)
def test_the_request_stays(granted: VirteClient) -> None:
    granted.call(virte.MAP, ims())
    assert granted.get(0x40, 32) == ims()
    assert granted.get(0, 4) == b"\3\0\1\0"


@statement(24)
def test_a_pasid_is_part_of_the_source(granted: VirteClient) -> None:
    def bound(pasid: int, store: int = virte.IMS) -> bytes:
        return entry(
            store=store, flags=virte.PASID, requester=0x100, count=1, pasid=pasid, vector=64
        )

    pairs = [granted.map(ims()), granted.map(bound(0)), granted.map(bound(7))]
    assert len({pair.handle for pair in pairs}) == 3
    assert granted.map(bound(7)).handle == pairs[2].handle
    # What comes as a write to the doorbell page comes without a PASID.
    arrivals = [granted.arrival(pair.address, pair.data) for pair in pairs]
    assert arrivals == [(1, 64), None, None]
    for store in (virte.MSI, virte.MSIX):
        assert granted.call(virte.MAP, bound(7, store)).status == virte.INVALID
    granted.negotiate(features=0x7)
    assert granted.call(virte.MAP, bound(7)).status == virte.UNSUPPORTED


@statement(25)
@pytest.mark.parametrize("operation", [virte.RETARGET, virte.UNMAP, virte.MAP, virte.NEGOTIATE])
def test_what_was_on_its_way_is_told_until_it_has_landed(
    granted: VirteClient, hypervisor: Hypervisor, operation: int
) -> None:
    pair, other = granted.map(ims()), granted.map(ims(1))
    late: list[Callable[[], None]] = []
    hypervisor.policy.delivery, hypervisor.policy.handler = DeliveryPath.HOST_HANDLER, late.append
    assert granted.arrival(pair.address, pair.data) is None
    assert not granted.call(virte.QUERY, entry(handle=pair.handle)).notices & 4
    request = {
        virte.RETARGET: entry(destination=2, vector=65, handle=pair.handle),
        virte.UNMAP: entry(handle=pair.handle, count=1),
        virte.MAP: ims(destination=2),
    }.get(operation)
    called = granted.call(operation, request) if request else granted.negotiate()
    assert called.status == virte.OK
    assert called.notices & 4
    assert granted.register(0x10) & 4
    granted.send(other.address, other.data)
    for inject in late[:1]:
        inject()
    while granted.register(0x10) & 4:
        pass
    assert granted.messages.get(timeout=5) == (0xFEE0_1000, 64)
    assert granted.messages.empty()


def test_every_statement_has_a_test(request: pytest.FixtureRequest) -> None:
    section = DOCUMENT.read_text().partition("## Conformance")[2]
    stated = {int(number) for number in re.findall(r"^(\d+)\. ", section, re.MULTILINE)}
    module = request.node.module
    tested = {
        mark.args[0]
        for name, item in vars(module).items()
        if name.startswith("test_")
        for mark in getattr(item, "pytestmark", [])
        if mark.name == "statement"
    }
    assert tested == stated
