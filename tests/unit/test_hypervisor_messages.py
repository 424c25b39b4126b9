"""Messages against the hypervisor model: who may send what, storms, and what is counted."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from harness.hypervisor.entry import Sender
from harness.hypervisor.host import Blocked, Delivered, Fault
from harness.hypervisor.policy import DeliveryPath, Policy, StormLimit
from harness.spec.hypercall import (
    DOORBELL_PAGE_SIZE,
    CallStatus,
    EntryFlag,
    EntryRequest,
    HandleState,
    Operation,
)
from tests.unit.hypercall_guest import DEVICE, Clock, Guest, ims, new_guest


def reason(outcome: Delivered | Fault) -> Blocked | None:
    return outcome.reason if isinstance(outcome, Fault) else None


def test_a_late_message_with_a_dead_handle_is_blocked_and_counted() -> None:
    guest = new_guest()
    pair = guest.map(ims())
    guest.call(Operation.UNMAP, EntryRequest(handle=pair.handle, count=1))
    assert reason(guest.send(pair)) is Blocked.NO_HANDLE
    assert guest.host.blocked == {Blocked.NO_HANDLE: 1}
    assert guest.host.faults[-1].data == pair.data


@pytest.mark.parametrize("data", [1 << 16, 5, 0xFFFFFFFF])
def test_data_that_names_no_live_handle_is_blocked(data: int) -> None:
    guest = new_guest()
    assert reason(guest.send(replace(guest.map(ims()), data=data))) is Blocked.NO_HANDLE


def test_a_message_to_an_odd_place_is_malformed() -> None:
    guest = new_guest()
    pair = guest.map(ims())
    outcome = guest.send(replace(pair, address=pair.address + 1))
    assert reason(outcome) is Blocked.MALFORMED


def test_another_functions_page_is_a_wrong_source() -> None:
    guest = new_guest()
    pair = guest.map(ims())
    other = guest.map(ims(requester=DEVICE + 8))
    assert pair.address // DOORBELL_PAGE_SIZE != other.address // DOORBELL_PAGE_SIZE
    foreign = replace(pair, address=other.address, data=pair.data)
    assert reason(guest.send(foreign)) is Blocked.WRONG_SOURCE


def test_another_requester_id_is_a_wrong_source() -> None:
    guest = new_guest()
    pair = guest.map(ims())
    assert reason(guest.send(pair, requester=DEVICE)) is None
    assert reason(guest.send(pair, requester=DEVICE + 8)) is Blocked.WRONG_SOURCE
    _, (answer,) = guest.call(Operation.QUERY, EntryRequest(handle=pair.handle))
    assert (answer.delivered, answer.blocked) == (1, 1)


def test_a_sender_that_is_not_known_must_not_be_one_of_those_who_would_be() -> None:
    guest = new_guest()
    pair = guest.map(ims())
    signal = partial(guest.partition.signal, guest.place(pair), pair.data)
    assert reason(signal(Sender(strangers={DEVICE + 8}))) is None
    assert reason(signal(Sender(strangers={DEVICE}))) is Blocked.WRONG_SOURCE
    assert reason(signal(Sender(DEVICE, strangers={DEVICE}))) is None


def test_another_guest_cannot_fire_a_handle() -> None:
    guest = new_guest()
    pair = guest.map(ims())
    other = Guest(guest.host)
    other.negotiate()
    assert reason(other.send(pair)) is Blocked.NO_HANDLE


@pytest.mark.parametrize(("sent", "delivered"), [(7, True), (8, False), (None, False)])
def test_a_handle_bound_to_a_pasid_takes_that_one_only(sent: int | None, delivered: bool) -> None:
    guest = new_guest()
    pair = guest.map(ims(pasid=7, flags=EntryFlag.PASID))
    outcome = guest.send(pair, requester=DEVICE, pasid=sent)
    assert reason(outcome) is (None if delivered else Blocked.WRONG_PASID)


def test_a_handle_without_a_pasid_takes_none() -> None:
    guest = new_guest()
    assert reason(guest.send(guest.map(ims()), pasid=0)) is Blocked.WRONG_PASID


def test_one_entry_of_a_store_can_be_mapped_for_several_pasids() -> None:
    guest = new_guest()
    pairs = [guest.map(ims(pasid=pasid, flags=EntryFlag.PASID)) for pasid in (1, 2)]
    assert pairs[0].handle != pairs[1].handle


def test_a_message_before_the_host_is_ready_is_blocked() -> None:
    guest = new_guest(policy=Policy(start_seconds=1))
    guest.call(Operation.MAP, ims())
    (entry,) = guest.partition.entries()
    pair = new_guest().map(ims())  # the first pair of such a host: the same
    assert pair.handle == entry.handle
    assert reason(guest.send(pair)) is Blocked.NOT_READY


def test_the_hosts_handler_takes_what_is_not_posted() -> None:
    guest = new_guest()
    pair = guest.map(ims())
    posted = guest.send(pair)
    guest.policy.delivery = DeliveryPath.HOST_HANDLER
    handled = guest.send(pair)
    assert isinstance(posted, Delivered)
    assert isinstance(handled, Delivered)
    assert (posted.path, handled.path) == (DeliveryPath.POSTED, DeliveryPath.HOST_HANDLER)
    assert posted.route == handled.route
    assert guest.host.handled == 1


# Storms


def storming(cool_down: float = 0.0) -> tuple[Guest, Clock]:
    clock = Clock()
    policy = Policy(storm=StormLimit(10, 0.1), cool_down_seconds=cool_down)
    return new_guest(policy=policy, clock=clock), clock


def test_a_storm_is_quenched_and_the_guest_learns_of_it() -> None:
    guest, _ = storming()
    pair, calm = guest.map(ims(0)), guest.map(ims(1, vector=0x41))
    outcomes = [reason(guest.send(pair)) for _ in range(12)]
    assert outcomes == [None] * 10 + [Blocked.QUENCHED] * 2
    assert guest.partition.status.quenched
    answer, (entry,) = guest.call(Operation.QUERY, EntryRequest(handle=pair.handle))
    assert (answer.notices & 2, entry.state) == (2, HandleState.QUENCHED)
    assert (entry.delivered, entry.blocked) == (10, 2)
    assert guest.arrival(calm) == (1, 0x41)


def test_a_steady_rate_below_the_limit_is_no_storm() -> None:
    guest, clock = storming()
    pair = guest.map(ims())
    for _ in range(100):
        clock.now += 0.011
        assert reason(guest.send(pair)) is None


def test_a_quenched_handle_is_revived_once_it_has_cooled_down() -> None:
    guest, clock = storming(cool_down=1.0)
    pair = guest.map(ims())
    for _ in range(11):
        guest.send(pair)
    answer, _ = guest.call(Operation.REVIVE, EntryRequest(handle=pair.handle))
    assert (answer.status, answer.retry_us) == (CallStatus.BUSY, 1_000_000)
    assert reason(guest.send(pair)) is Blocked.QUENCHED
    clock.now += 1.0
    answer, _ = guest.call(Operation.REVIVE, EntryRequest(handle=pair.handle))
    assert (answer.status, answer.notices & 2) == (CallStatus.OK, 0)
    assert guest.arrival(pair) == (1, 0x40)


def test_a_move_does_not_end_the_quenching() -> None:
    guest, _ = storming()
    pair = guest.map(ims())
    for _ in range(11):
        guest.send(pair)
    guest.call(Operation.RETARGET, EntryRequest(handle=pair.handle, vector=0x50))
    assert reason(guest.send(pair)) is Blocked.QUENCHED
