"""The batch form of the vIRTE call from a real guest: a range of IMS entries, 64 in a call."""

from __future__ import annotations

import errno

import pytest

from harness.guest.control import ControlError
from harness.hypervisor.policy import Policy
from harness.spec.hypercall import FRAME_ENTRIES, CallStatus, Operation
from harness.spec.interrupt import Store
from harness.testbed.plugged import PluggedFunction
from tests.guest.support import Virte, deliver

pytestmark = pytest.mark.shared_vm("module")

ENTRIES = 2048


def refused(device: PluggedFunction, count: int) -> int:
    """Allocate a range of IMS entries, which fails, and return the driver's errno."""
    with pytest.raises(ControlError) as caught:
        device.control.alloc(Store.IMS, count, facts=False)
    assert caught.value.done == 0
    return caught.value.errno


class Counted:
    """Calls that were made, and what the guest's trapped accesses were meanwhile."""

    def __init__(self, virte: Virte):
        self._model = virte.model
        self._mark, self._made = virte.model.accesses.mark(), len(virte.model.calls)

    def check(self, operation: Operation, *counts: int) -> None:
        """See that these calls were made with so many entries each, and trapped once each."""
        calls = self._model.calls[self._made :]
        assert [call.request.operation for call in calls] == [operation] * len(counts)
        assert [call.request.count for call in calls] == list(counts)
        trapped = self._model.accesses.counts_since(self._mark).values()
        assert sum(area.total for area in trapped) == len(calls)


@pytest.mark.capability("A4", "D2", "D4")
def test_2048_entries_are_mapped_by_32_calls_and_given_back_by_32(
    virte: Virte, device: PluggedFunction
) -> None:
    model = virte.model
    full = [FRAME_ENTRIES] * (ENTRIES // FRAME_ENTRIES)
    counted = Counted(virte)
    given = device.control.alloc(Store.IMS, ENTRIES, facts=False)
    counted.check(Operation.MAP, *full)
    assert given.done == model.partition.live == ENTRIES

    ends = (0, FRAME_ENTRIES - 1, FRAME_ENTRIES, ENTRIES - 1)
    for index in ends:
        device.control.request(Store.IMS, index)
    assert model.calls[-1].request.operation == Operation.RETARGET
    deliver(device, Store.IMS, *ends)
    assert len({device.message(Store.IMS, index) for index in ends}) == len(ends)
    for index in ends:
        device.control.release(Store.IMS, index)
    counted = Counted(virte)
    device.control.free(Store.IMS, count=ENTRIES)
    counted.check(Operation.UNMAP, *full)
    assert model.partition.live == 0


@pytest.mark.capability("D4")
def test_a_part_of_a_range_is_given_back_at_once_and_the_rest_stays(
    virte: Virte, device: PluggedFunction
) -> None:
    device.control.alloc(Store.IMS, 3 * FRAME_ENTRIES, facts=False)
    ends = (9, FRAME_ENTRIES + 20)
    for index in ends:
        device.control.request(Store.IMS, index)
    counted = Counted(virte)
    device.control.free(Store.IMS, index=10, count=FRAME_ENTRIES + 10)
    counted.check(Operation.UNMAP, FRAME_ENTRIES, 10)
    left = {entry.source.index for entry in virte.model.partition.entries()}
    assert left == {*range(10), *range(ends[1], 3 * FRAME_ENTRIES)}
    deliver(device, Store.IMS, *ends)
    device.control.alloc(Store.IMS, FRAME_ENTRIES + 10, index=10, facts=False)
    device.control.request(Store.IMS, 10)
    deliver(device, Store.IMS, 10, *ends)


@pytest.mark.capability("D2", "D5")
def test_a_batch_that_fails_half_way_gives_back_what_it_had(
    virte: Virte, policy: Policy, device: PluggedFunction
) -> None:
    for status, number in (
        (CallStatus.BUSY, errno.EAGAIN),
        (CallStatus.NO_HANDLES, errno.ENOSPC),
        (CallStatus.FAILED, errno.EIO),
    ):
        policy.fail(Operation.MAP, status, after=FRAME_ENTRIES + 6, times=None)
        assert refused(device, 3 * FRAME_ENTRIES) == number
        assert virte.model.partition.live == 0
        policy.stop_failing()
    device.control.alloc(Store.IMS, 3 * FRAME_ENTRIES, facts=False)
    assert virte.model.partition.live == 3 * FRAME_ENTRIES


@pytest.mark.capability("D5")
def test_exhausted_handles_are_used_again_once_freed(
    virte: Virte, policy: Policy, device: PluggedFunction
) -> None:
    policy.quota = 2 * FRAME_ENTRIES
    device.control.alloc(Store.IMS, policy.quota, facts=False)
    with pytest.raises(ControlError, match="No space left"):
        device.set_up(Store.IMS, 1, index=policy.quota)
    for left in device.control.interrupts(Store.IMS, policy.quota):
        device.control.free(Store.IMS, left.index)
    device.control.request(Store.IMS, 7)
    deliver(device, Store.IMS, 7)
    first = {entry.handle for entry in virte.model.partition.entries()}
    device.control.release(Store.IMS, 7)
    device.control.free(Store.IMS, count=policy.quota)
    device.control.alloc(Store.IMS, policy.quota, facts=False)
    again = {entry.handle for entry in virte.model.partition.entries()}
    assert not first & again
    device.control.request(Store.IMS, 7)
    deliver(device, Store.IMS, 7)


@pytest.mark.capability("D6")
def test_a_host_that_starts_interrupts_slowly_is_waited_for_in_a_batch(
    virte: Virte, policy: Policy, device: PluggedFunction
) -> None:
    policy.start_seconds = 0.0005
    device.control.alloc(Store.IMS, FRAME_ENTRIES, facts=False)
    assert virte.model.partition.live == FRAME_ENTRIES
    assert any(call.answer.status == CallStatus.BUSY for call in virte.model.calls)
