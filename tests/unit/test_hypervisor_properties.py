"""Any sequence of calls, messages and failures leaves the model sound; any bytes have a status."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.hypervisor.calls import carry_out
from harness.hypervisor.host import Host
from harness.spec.hypercall import (
    FRAME_SIZE,
    CallAnswer,
    CallRequest,
    CallStatus,
    EntryRequest,
    Operation,
    entry_offset,
)
from harness.spec.interrupt import Store
from tests.unit.hypercall_guest import Clock, Guest, frame_of, write_answers
from tests.unit.hypercall_machine import REQUESTERS, Calls

QUIET = settings(deadline=None, database=None)
"""No file is left behind, and a slow machine is no failure."""

TestCalls = Calls.TestCase
TestCalls.settings = settings(QUIET, max_examples=150, stateful_step_count=40)


def answer_to(guest: Guest, frame: bytes) -> CallAnswer:
    whole = bytearray(frame.ljust(FRAME_SIZE, b"\0"))
    write_answers(whole, carry_out(guest.partition, frame))
    return CallAnswer.unpack(bytes(whole[CallRequest.SIZE :][: CallAnswer.SIZE]))


@settings(QUIET)
@given(frame=st.binary(max_size=entry_offset(3)), negotiated=st.booleans())
def test_any_bytes_are_answered_with_a_status(frame: bytes, negotiated: bool) -> None:
    guest = Guest(Host(64, Clock()))
    if negotiated:
        guest.negotiate()
    assert answer_to(guest, frame).status in list(CallStatus)


# Bytes at random are refused at the first field: here most of them are sound.
u8, u16, u32 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32))
likely = EntryRequest(store=Store.IMS, requester=0x100, count=1, vector=0x40)
entries = st.lists(
    st.builds(
        EntryRequest,
        store=st.sampled_from([1, 2, 3]) | u8,
        flags=st.integers(0, 15) | u8,
        requester=REQUESTERS,
        count=st.sampled_from([1, 2, 32]) | u16,
        least=st.just(0) | u16,
        index=st.just(0) | u32,
        pasid=st.just(0) | u32,
        destination=st.integers(0, 3) | u32,
        vector=u8,
        delivery_mode=st.integers(0, 1) | u8,
        segment=st.just(0) | u16,
        handle=st.integers(0x10000, 0x10010) | st.just(0) | u32,
        reserved=st.just(0) | u32,
    )
    | st.just(likely),
    max_size=4,
)


@settings(QUIET)
@given(
    operation=st.sampled_from(list(Operation)) | u16,
    entries=entries,
    count=st.none() | u16,
    flags=st.just(0) | u32,
)
def test_any_operands_are_answered_with_a_status(
    operation: int, entries: list[EntryRequest], count: int | None, flags: int
) -> None:
    guest = Guest(Host(64, Clock()))
    guest.negotiate()
    guest.call(Operation.MAP, likely)
    request = CallRequest(operation, len(entries) if count is None else count, flags)
    assert answer_to(guest, frame_of(request, tuple(entries))).status in list(CallStatus)
    held = guest.partition.live
    assert guest.host.handles.free + held == 64
