"""VERSION: what is agreed, and what comes before and after it."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator

import pytest

from harness.spec.vfio import Command
from harness.vfio_user import guest_memory
from harness.vfio_user.client import Client
from harness.vfio_user.server import DeviceServer
from harness.vfio_user.wire import Capabilities, DeviceInfo, Version
from tests.protocol.scratch_device import ScratchDevice
from tests.protocol.vfio_checks import refused

V00 = Version(0, 0).pack()


@pytest.fixture
def fresh(server: DeviceServer, ends: tuple[socket.socket, socket.socket]) -> Iterator[Client]:
    """A client that has not negotiated yet."""
    with Client(ends[1], capabilities=None) as client:
        yield client


def capabilities(reply: bytes) -> object:
    assert reply[-1] == 0
    return json.loads(reply[Version.FORMAT.size : -1])["capabilities"]


def test_the_answer_names_what_was_proposed_and_nothing_else(fresh: Client) -> None:
    proposal = {
        "max_msg_fds": 3,
        "pgsizes": 4096,
        "migration": {"pgsize": 4096},
        "twin_socket": {"supported": True},
        "from_the_future": [1],
    }
    data = json.dumps({"capabilities": proposal}).encode() + b"\0"
    reply = fresh.call(Command.VERSION, V00 + data)
    assert capabilities(reply.payload) == {"max_msg_fds": 16, "pgsizes": 4096}
    assert reply.fds == []


def test_a_client_that_proposes_everything_learns_every_limit(client: Client) -> None:
    assert client.peer.max_msg_fds == 16
    assert client.peer.max_data_xfer_size == 1 << 20
    assert client.peer.max_dma_maps == guest_memory.MAX_MAPS
    assert client.peer.pgsizes == 4096
    assert client.peer.write_multiple


def test_version_without_json_is_answered_without_json(fresh: Client) -> None:
    assert fresh.call(Command.VERSION, V00).payload == V00
    assert fresh.device_info().num_regions == 5


def test_version_without_a_capabilities_object_is_accepted(fresh: Client) -> None:
    assert capabilities(fresh.call(Command.VERSION, V00 + b"{}\0").payload) == {}


def test_the_lower_minor_version_is_agreed(fresh: Client) -> None:
    assert fresh.negotiate(minor=7) == Version(0, 0)


def test_another_major_version_is_refused_and_may_be_followed_by_ours(fresh: Client) -> None:
    with refused(errno.ENOTSUP):
        fresh.negotiate(major=1)
    assert fresh.negotiate() == Version(0, 0)


def test_the_device_is_attached_by_the_version_and_not_by_the_connection(
    fresh: Client, device: ScratchDevice
) -> None:
    with refused(errno.EINVAL):
        fresh.device_info()
    assert device.log == []
    fresh.negotiate()
    assert device.log == [("attached",)]


def test_a_second_version_is_refused(client: Client) -> None:
    with refused(errno.EINVAL):
        client.negotiate()
    client.device_info()


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(V00[:3], id="too short"),
        pytest.param(V00 + b'{"capabilities":{}} ', id="no NUL"),
        pytest.param(V00 + b"{\0", id="no JSON"),
        pytest.param(V00 + b"\xff\xfe\0", id="no UTF-8"),
        pytest.param(V00 + b"[]\0", id="no object"),
        pytest.param(V00 + b"[" * 100_000 + b"\0", id="too deep"),
        pytest.param(V00 + b'{"capabilities":[]}\0', id="capabilities are no object"),
        pytest.param(V00 + b'{"capabilities":{"max_msg_fds":"8"}}\0', id="number is a string"),
        pytest.param(V00 + b'{"capabilities":{"max_msg_fds":true}}\0', id="number is a boolean"),
        pytest.param(V00 + b'{"capabilities":{"pgsizes":-1}}\0', id="negative"),
        pytest.param(V00 + b'{"capabilities":{"max_data_xfer_size":0}}\0', id="zero"),
        pytest.param(V00 + b'{"capabilities":{"write_multiple":1}}\0', id="boolean is a number"),
    ],
)
def test_malformed_version_is_refused_and_a_sound_one_may_follow(
    fresh: Client, payload: bytes
) -> None:
    with refused(errno.EINVAL):
        fresh.call(Command.VERSION, payload)
    fresh.negotiate()
    fresh.device_info()


def test_a_client_that_takes_no_descriptors_is_offered_no_mapping(
    server: DeviceServer, ends: tuple[socket.socket, socket.socket]
) -> None:
    with Client(ends[1], capabilities=Capabilities(max_msg_fds=0)) as client:
        assert client.region_info(3).mappable == ()


def test_device_info_says_pci_with_reset(client: Client) -> None:
    assert client.device_info() == DeviceInfo(16, 0b11, 5, 5)
