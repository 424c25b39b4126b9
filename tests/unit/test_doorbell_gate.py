"""A message to a doorbell page is held against its sender, whatever its pair says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.devices.delivery import Awaited, OpenGate, Routed
from harness.devices.virte_function.function import VirteFunction
from harness.hypervisor.host import Blocked, Fault
from harness.hypervisor.policy import DeliveryPath
from harness.spec.hypercall import BAR_DOORBELLS
from harness.spec.interrupt import Store
from harness.spec.msi import CompatibilityMessage, Message
from harness.spec.pci import Header, RequesterId
from harness.testbed.doorbell_gate import DoorbellGate
from tests.unit.hypercall_guest import DEVICE, DOORBELLS, Guest, ims, new_guest

ROUTE = CompatibilityMessage(destination=1, vector=0x40).message()


@pytest.fixture
def guest() -> Guest:
    return new_guest()


@pytest.fixture
def door(guest: Guest) -> Iterator[VirteFunction]:
    with VirteFunction(guest.host, guest.policy, mapped=False) as door:
        door.partition = guest.partition
        at = Header.BAR0 + 4 * BAR_DOORBELLS
        door.config.write(at, DOORBELLS.to_bytes(4, "little"))
        yield door


def sent(door: VirteFunction, message: Message, sender: int = DEVICE) -> Routed:
    gate = DoorbellGate(RequesterId(sender), [door], OpenGate())
    return gate.route(Store.IMS, 0, message)


def pair_of(guest: Guest) -> Message:
    answer = guest.map(ims())
    return Message(answer.address, answer.data)


def test_the_owners_message_is_injected(guest: Guest, door: VirteFunction) -> None:
    routed = sent(door, pair_of(guest))
    assert isinstance(routed, Awaited)
    assert routed.message == ROUTE


def test_an_injected_message_is_on_its_way_until_the_client_has_it(
    guest: Guest, door: VirteFunction
) -> None:
    routed = sent(door, pair_of(guest))
    assert isinstance(routed, Awaited)
    guest.map(ims(vector=0x41))
    assert guest.partition.status.landing
    routed.landed()
    assert not guest.partition.status.landing


def test_another_functions_whole_pair_is_blocked_and_its_sender_is_named(
    guest: Guest, door: VirteFunction
) -> None:
    fault = sent(door, pair_of(guest), sender=DEVICE + 8)
    assert isinstance(fault, Fault)
    assert (fault.reason, fault.requester) == (Blocked.WRONG_SOURCE, DEVICE + 8)
    assert "from 01:01.0" in str(fault)
    assert guest.host.blocked == {Blocked.WRONG_SOURCE: 1}


def test_what_the_hosts_handler_takes_is_not_put_on_the_bus(
    guest: Guest, door: VirteFunction
) -> None:
    pair = pair_of(guest)
    guest.policy.delivery = DeliveryPath.HOST_HANDLER
    assert sent(door, pair) is None
    assert guest.host.handled == 1


@pytest.mark.parametrize("address", [0xFEE0_1000, DOORBELLS - 4, DOORBELLS + 0x8_0000])
def test_other_messages_pass_on(door: VirteFunction, address: int) -> None:
    assert sent(door, Message(address, 1)) == Message(address, 1)


def test_a_function_that_has_no_place_yet_takes_nothing(guest: Guest) -> None:
    with VirteFunction(guest.host, mapped=False) as door:
        assert sent(door, Message(0x1000, 1)) == Message(0x1000, 1)
