"""The calls against the hypervisor model: what is granted, what is refused, what stays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.hypervisor.partition import Partition
from harness.hypervisor.policy import Policy
from harness.spec.hypercall import (
    VERSION_1_0,
    CallStatus,
    EntryAnswer,
    EntryFlag,
    EntryRequest,
    Feature,
    HandleState,
    Operation,
)
from harness.spec.interrupt import Store
from tests.unit.hypercall_guest import DEVICE, DOORBELLS, Clock, Guest, ims, new_guest


def statuses(answers: list[EntryAnswer]) -> list[int]:
    return [answer.status for answer in answers]


def target(handle: int, destination: int, vector: int) -> EntryRequest:
    return EntryRequest(handle=handle, destination=destination, vector=vector)


# Negotiation


def test_what_is_granted_is_what_both_want() -> None:
    guest = new_guest(policy=Policy(features=Feature.IMS | Feature.MSIX))
    answer = guest.negotiate(Feature.IMS | Feature.PASID)
    assert (answer.status, answer.version, answer.features) == (
        CallStatus.OK,
        VERSION_1_0,
        Feature.IMS,
    )
    assert answer.notices == guest.partition.status.value == 1


@pytest.mark.parametrize("version", [0, 0x00020000, 0x0000FFFF])
def test_another_major_version_is_unsupported(version: int) -> None:
    guest = new_guest()
    answer, _ = guest.call(Operation.NEGOTIATE, version=version, features=Feature.IMS)
    assert answer.status == CallStatus.UNSUPPORTED
    assert not guest.partition.negotiated


def test_a_refused_negotiation_leaves_the_old_scheme_and_no_handle() -> None:
    guest = new_guest()
    pair = guest.map(ims())
    guest.policy.grant = False
    assert guest.negotiate().status == CallStatus.DENIED
    assert guest.arrival(pair) is None
    answer, _ = guest.call(Operation.MAP, ims())
    assert answer.status == CallStatus.NOT_NEGOTIATED
    assert guest.partition.live == 0


@pytest.mark.parametrize("operation", [Operation.NEGOTIATE, Operation.RELEASE])
def test_negotiating_anew_and_releasing_give_every_handle_back(operation: Operation) -> None:
    guest = new_guest()
    pairs = [guest.map(ims(index)) for index in range(4)]
    wanted = operation is Operation.NEGOTIATE
    header = {"version": VERSION_1_0, "features": Feature.IMS} if wanted else {}
    answer, _ = guest.call(operation, **header)
    assert answer.status == CallStatus.OK
    assert [guest.arrival(pair) for pair in pairs] == [None] * 4
    assert guest.host.handles.free == guest.host.handles.size


# Map


def test_a_mapped_pair_reaches_the_cpu_and_vector_that_were_asked_for() -> None:
    guest = new_guest()
    assert guest.arrival(guest.map(ims(destination=3, vector=0x51))) == (3, 0x51)


def test_mapping_again_gives_the_same_pair_and_the_new_route() -> None:
    guest = new_guest()
    first = guest.map(ims(vector=0x51))
    again = guest.map(ims(vector=0x52))
    assert again == first
    assert guest.arrival(first) == (1, 0x52)
    assert guest.partition.live == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"store": 0}, CallStatus.INVALID),
        ({"store": 4}, CallStatus.INVALID),
        ({"flags": 1 << 7}, CallStatus.INVALID),
        ({"count": 0}, CallStatus.INVALID),
        ({"count": 2}, CallStatus.INVALID),
        ({"least": 2}, CallStatus.INVALID),
        ({"vector": 15}, CallStatus.INVALID),
        ({"delivery_mode": 4}, CallStatus.UNSUPPORTED),
        ({"destination": 256}, CallStatus.UNSUPPORTED),
        ({"pasid": 1}, CallStatus.INVALID),
        ({"pasid": 1 << 20, "flags": EntryFlag.PASID}, CallStatus.INVALID),
        ({"handle": 1}, CallStatus.INVALID),
        ({"reserved": 1}, CallStatus.INVALID),
        ({"flags": EntryFlag.PARKED}, CallStatus.INVALID),
        ({"store": Store.MSIX, "index": 2048}, CallStatus.INVALID),
        ({"store": Store.MSIX, "flags": EntryFlag.PASID}, CallStatus.INVALID),
        ({"store": Store.MSI, "count": 3}, CallStatus.INVALID),
        ({"store": Store.MSI, "count": 64}, CallStatus.INVALID),
        ({"store": Store.MSI, "index": 1}, CallStatus.INVALID),
        ({"store": Store.MSI, "count": 2, "least": 4}, CallStatus.INVALID),
    ],
)
def test_one_bad_field_of_a_map_is_refused_with_the_null_message(
    change: dict[str, int], status: CallStatus
) -> None:
    guest = new_guest()
    assert guest.map(ims()).status == CallStatus.OK
    answer, (entry,) = guest.call(Operation.MAP, replace(ims(1), **change))
    assert (answer.status, entry.status) == (status, status)
    assert (entry.handle, entry.address, entry.data) == (0, 0, 0)
    assert guest.partition.live == 1


def test_a_store_that_was_not_negotiated_is_unsupported() -> None:
    guest = new_guest()
    guest.negotiate(Feature.MSIX)
    assert guest.call(Operation.MAP, ims())[0].status == CallStatus.UNSUPPORTED
    assert guest.call(Operation.MAP, ims(store=Store.MSIX))[0].status == CallStatus.OK


def test_a_device_that_is_not_the_guests_is_denied() -> None:
    guest = new_guest(policy=Policy(owns=lambda segment, requester: requester == DEVICE))
    assert guest.call(Operation.MAP, ims(requester=DEVICE + 8))[0].status == CallStatus.DENIED
    assert guest.call(Operation.MAP, ims())[0].status == CallStatus.OK


def test_a_device_whose_messages_nobody_tells_is_denied_and_counted() -> None:
    guest = new_guest()
    told = {DEVICE}
    guest.partition = Partition(
        guest.host, lambda: DOORBELLS, guest.policy, is_told=lambda requester: requester in told
    )
    guest.negotiate()
    for store in (Store.MSI, Store.MSIX, Store.IMS):
        untold = ims(requester=DEVICE + 8, store=store)
        assert guest.call(Operation.MAP, untold)[0].status == CallStatus.DENIED
        assert guest.call(Operation.MAP, ims(store=store))[0].status == CallStatus.OK
    assert guest.partition.untold == {DEVICE + 8: 3}


def test_a_batch_stops_at_its_first_failure_and_keeps_what_was_done() -> None:
    guest = new_guest()
    guest.policy.fail(Operation.MAP, CallStatus.NO_HANDLES, after=2)
    answer, entries = guest.call(Operation.MAP, *(ims(index) for index in range(5)))
    assert (answer.status, answer.done) == (CallStatus.NO_HANDLES, 2)
    ok, skipped = CallStatus.OK, CallStatus.NOT_ATTEMPTED
    assert statuses(entries) == [ok, ok, CallStatus.NO_HANDLES, skipped, skipped]
    assert [entry.address for entry in entries[2:]] == [0, 0, 0]
    assert guest.partition.live == 2


def test_handles_run_out_come_back_and_are_told_apart_from_their_former_selves() -> None:
    guest = new_guest(size=4)
    pairs = [guest.map(ims(index)) for index in range(4)]
    assert guest.call(Operation.MAP, ims(4))[0].status == CallStatus.NO_HANDLES
    guest.call(Operation.UNMAP, EntryRequest(handle=pairs[2].handle, count=1))
    again = guest.map(ims(4))
    assert again.data == pairs[2].data
    assert again.handle != pairs[2].handle
    assert guest.arrival(pairs[2]) is None
    assert guest.arrival(again) == (1, 0x40)


def test_the_quota_counts_and_is_the_guests_own() -> None:
    guest = new_guest(policy=Policy(quota=1))
    other = Guest(guest.host)
    other.negotiate()
    guest.map(ims())
    assert guest.call(Operation.MAP, ims(1))[0].status == CallStatus.NO_HANDLES
    other.map(ims(1))


# MSI blocks


def test_an_msi_block_shares_its_address_and_counts_in_its_data() -> None:
    guest = new_guest()
    guest.map(ims())  # so that the block has to be aligned past it
    pair = guest.map(ims(store=Store.MSI, count=8))
    assert pair.granted == 8
    assert pair.data % 8 == 0
    assert pair.data + 7 <= 0xFFFF
    moves = [target(pair.handle + n, n, 0x60 + n) for n in range(8)]
    assert guest.call(Operation.RETARGET, *moves)[0].status == CallStatus.OK
    for number in range(8):
        assert guest.arrival(replace(pair, data=pair.data + number)) == (number, 0x60 + number)


def test_the_other_messages_of_a_block_are_parked_at_first() -> None:
    guest = new_guest()
    pair = guest.map(ims(store=Store.MSI, count=2))
    assert guest.arrival(pair) == (1, 0x40)
    assert guest.arrival(replace(pair, data=pair.data + 1)) is None


def test_a_partial_grant_is_the_largest_power_of_two_that_is_enough() -> None:
    guest = new_guest(policy=Policy(largest_block=4))
    refused, _ = guest.call(Operation.MAP, ims(store=Store.MSI, count=16))
    assert refused.status == CallStatus.NO_HANDLES
    pair = guest.map(ims(store=Store.MSI, count=16, least=2))
    assert pair.granted == 4
    assert guest.map(ims(store=Store.MSI, count=16, least=2)) == pair


def test_a_block_that_was_granted_in_part_is_not_enough_for_who_asks_again_for_all() -> None:
    guest = new_guest(policy=Policy(largest_block=4))
    pair = guest.map(ims(store=Store.MSI, count=8, least=4))
    answer, (again,) = guest.call(Operation.MAP, ims(store=Store.MSI, count=8, vector=0x50))
    assert (answer.status, again.address) == (CallStatus.NO_HANDLES, 0)
    assert guest.arrival(pair) == (1, 0x40)
    assert guest.map(ims(store=Store.MSI, count=8, least=2)).handle == pair.handle


def test_a_block_goes_back_as_a_whole_or_not_at_all() -> None:
    guest = new_guest()
    pair = guest.map(ims(store=Store.MSI, count=4))
    for handle, count in ((pair.handle, 1), (pair.handle + 1, 4), (pair.handle, 8)):
        answer, _ = guest.call(Operation.UNMAP, EntryRequest(handle=handle, count=count))
        assert answer.status == CallStatus.INVALID
    answer, _ = guest.call(Operation.UNMAP, EntryRequest(handle=pair.handle, count=4))
    assert answer.status == CallStatus.OK
    assert guest.host.handles.free == guest.host.handles.size


# Retarget


def test_a_retarget_moves_the_interrupt_and_leaves_the_pair() -> None:
    guest = new_guest()
    pair = guest.map(ims())
    _, (answer,) = guest.call(Operation.RETARGET, target(pair.handle, 2, 0x77))
    assert (answer.address, answer.data) == (pair.address, pair.data)
    assert guest.arrival(pair) == (2, 0x77)


@pytest.mark.parametrize(
    "status", [CallStatus.BUSY, CallStatus.NO_HANDLES, CallStatus.DENIED, CallStatus.FAILED]
)
def test_a_failed_retarget_leaves_the_old_route_in_force(status: CallStatus) -> None:
    guest = new_guest()
    pair = guest.map(ims(destination=1, vector=0x40))
    guest.policy.fail(Operation.RETARGET, status)
    answer, _ = guest.call(Operation.RETARGET, target(pair.handle, 2, 0x77))
    assert answer.status == status
    assert (answer.retry_us > 0) == (status == CallStatus.BUSY)
    assert guest.arrival(pair) == (1, 0x40)


def test_a_parked_handle_blocks_until_it_has_a_route() -> None:
    guest = new_guest()
    pair = guest.map(ims(destination=0, vector=0, flags=EntryFlag.PARKED))
    _, (answer,) = guest.call(Operation.QUERY, EntryRequest(handle=pair.handle))
    assert answer.state == HandleState.PARKED
    assert guest.arrival(pair) is None
    guest.call(Operation.RETARGET, target(pair.handle, 1, 0x40))
    assert guest.arrival(pair) == (1, 0x40)
    guest.call(Operation.RETARGET, EntryRequest(handle=pair.handle, flags=EntryFlag.PARKED))
    assert guest.arrival(pair) is None


# Ownership


@pytest.mark.parametrize(
    "operation", [Operation.RETARGET, Operation.UNMAP, Operation.QUERY, Operation.REVIVE]
)
def test_a_foreign_handle_looks_like_one_that_never_was(operation: Operation) -> None:
    guest = new_guest()
    other = Guest(guest.host)
    other.negotiate()
    pair = guest.map(ims())
    route = {"vector": 0x50} if operation is Operation.RETARGET else {}
    count = {"count": 1} if operation is Operation.UNMAP else {}
    for handle in (pair.handle, pair.handle + 1, 0, 0xFFFFFFFF):
        answer, _ = other.call(operation, EntryRequest(handle=handle, **route, **count))
        assert answer.status == CallStatus.NO_SUCH_HANDLE
    assert guest.arrival(pair) == (1, 0x40)


# The host's halves


def test_no_pair_is_handed_out_before_both_halves_are_ready() -> None:
    clock = Clock()
    guest = new_guest(policy=Policy(start_seconds=0.5), clock=clock)
    answer, (entry,) = guest.call(Operation.MAP, ims())
    assert (answer.status, entry.address) == (CallStatus.BUSY, 0)
    assert answer.retry_us == 500_000
    (starting,) = guest.partition.entries()
    early, _ = guest.call(Operation.QUERY, EntryRequest(handle=starting.handle))
    assert early.status == CallStatus.NO_SUCH_HANDLE
    clock.now += answer.retry_us / 1e6
    assert guest.arrival(guest.map(ims())) == (1, 0x40)
    assert guest.partition.live == 1


def test_what_the_guest_does_not_come_back_for_is_taken_down() -> None:
    clock = Clock()
    guest = new_guest(size=1, policy=Policy(start_seconds=0.01, abandon_seconds=1), clock=clock)
    assert guest.call(Operation.MAP, ims(0))[0].status == CallStatus.BUSY
    assert guest.call(Operation.MAP, ims(1))[0].status == CallStatus.NO_HANDLES
    clock.now += 2
    assert guest.call(Operation.MAP, ims(1))[0].status == CallStatus.BUSY


def test_a_crash_between_the_halves_leaves_nothing() -> None:
    guest = new_guest(policy=Policy(crashes=1))
    answer, (entry,) = guest.call(Operation.MAP, ims(store=Store.MSI, count=4))
    assert (answer.status, entry.address) == (CallStatus.FAILED, 0)
    assert guest.host.handles.free == guest.host.handles.size
    assert guest.partition.live == 0
    guest.map(ims(store=Store.MSI, count=4))


def test_giving_back_cannot_be_made_to_fail() -> None:
    for operation in (Operation.RELEASE, Operation.UNMAP, Operation.QUERY):
        with pytest.raises(ValueError, match="always succeeds"):
            Policy().fail(operation, CallStatus.FAILED)


def test_parking_is_never_refused() -> None:
    guest = new_guest()
    pair = guest.map(ims())
    guest.policy.fail(Operation.RETARGET, CallStatus.FAILED, times=None)
    parked = EntryRequest(handle=pair.handle, flags=EntryFlag.PARKED)
    assert guest.call(Operation.RETARGET, parked)[0].status == CallStatus.OK
    assert guest.arrival(pair) is None
