"""A busy host: the guest waits for as long as it is told, within bounds, and all else goes on."""

from __future__ import annotations

import errno

import pytest

from harness.devices.virte_function.events import Called
from harness.guest.control import ControlError
from harness.host.deadline import Deadline
from harness.hypervisor.policy import Policy
from harness.spec.hypercall import CallStatus, Operation
from harness.spec.interrupt import Store
from harness.testbed.plugged import STORES, PluggedFunction
from tests.guest.support import Virte, deliver, other_cpu

pytestmark = pytest.mark.shared_vm("module")
by_store = pytest.mark.parametrize("store", STORES, ids=lambda store: store.name)

TRIES_MAX = 20
"""As the module has it: BUSY_TRIES in guests/module/virte_call.c."""


NEARLY_TOO_LONG_US = 1900
"""Just below what the module waits for in all."""


def calls(virte: Virte, operation: Operation) -> list[Called]:
    """Return the calls of one operation, with their times."""
    writer = virte.model.writer
    called = writer.stream.of(Called, source=writer.source)
    return [event for event in called if event.answered.request.operation == operation]


def cpu_of(device: PluggedFunction) -> int:
    """Raise IMS 0, and return the CPU that it reaches."""
    cpu = device.model.raise_and_wait(Store.IMS, 0, Deadline(10, "the answer of IMS 0")).cpu
    assert cpu is not None
    return cpu


def check_waited(made: list[Called], us: int, nanoseconds: int) -> None:
    """See that a guest was BUSY once, and has waited for as long as it was told."""
    answers = [event.answered.answer for event in made[:2]]
    assert [answer.status for answer in answers] == [CallStatus.BUSY, CallStatus.OK]
    assert answers[0].retry_us == us
    assert nanoseconds >= us * 1000


# How long it waited says the guest's own clock: the one that it waits by.
@pytest.mark.capability("D2")
def test_a_host_that_is_busy_at_a_map_is_left_alone_for_as_long_as_it_says(
    virte: Virte, policy: Policy, device: PluggedFunction
) -> None:
    policy.busy_us = NEARLY_TOO_LONG_US
    policy.fail(Operation.MAP, CallStatus.BUSY)
    given = device.control.alloc(Store.IMS, 2)
    check_waited(calls(virte, Operation.MAP), policy.busy_us, given.nanoseconds)
    device.control.request(Store.IMS, count=2)
    deliver(device, Store.IMS, 0, 1)


@pytest.mark.cpus(2)
@pytest.mark.capability("D3")
def test_a_host_that_is_busy_at_a_move_is_left_alone_for_as_long_as_it_says(
    virte: Virte, policy: Policy, device: PluggedFunction
) -> None:
    policy.busy_us = NEARLY_TOO_LONG_US
    device.set_up(Store.IMS, 1)
    old = cpu_of(device)
    before = len(calls(virte, Operation.RETARGET))
    policy.fail(Operation.RETARGET, CallStatus.BUSY)
    moved = device.control.call("move", store="ims", cpu=other_cpu(device, old))
    check_waited(calls(virte, Operation.RETARGET)[before:], policy.busy_us, moved["nanoseconds"])
    assert cpu_of(device) == other_cpu(device, old)


@pytest.mark.cpus(2)
@pytest.mark.capability("D2", "D5")
@by_store
def test_a_host_that_stays_busy_is_given_up_and_nothing_else_suffers(
    virte: Virte, policy: Policy, device: PluggedFunction, store: Store
) -> None:
    device.set_up(Store.IMS, 2)
    policy.fail(Operation.MAP, CallStatus.BUSY, times=None)
    for busy_us, tries in ((0, TRIES_MAX), (100, TRIES_MAX), (500, 5), (1_000_000, 1)):
        policy.busy_us = busy_us
        before = len(calls(virte, Operation.MAP))
        with pytest.raises(ControlError) as refused:
            device.set_up(store, 1, index=2 if store is Store.IMS else 0)
        assert refused.value.errno == errno.EAGAIN
        assert len(calls(virte, Operation.MAP)) - before == tries
        assert virte.model.partition.live == 2
        deliver(device, Store.IMS, 0, 1)
        device.move(Store.IMS, 1)
        device.move(Store.IMS, 0)
        if store is Store.IMS:
            device.control.free(store, 2)
    policy.stop_failing()
    device.set_up(store, 1, index=2 if store is Store.IMS else 0)
    deliver(device, store, 2 if store is Store.IMS else 0)


@pytest.mark.cpus(2)
@pytest.mark.capability("D3")
def test_a_move_on_a_host_that_stays_busy_is_an_error_and_no_put_off(
    virte: Virte, policy: Policy, device: PluggedFunction
) -> None:
    device.set_up(Store.IMS, 2)
    old = cpu_of(device)
    policy.fail(Operation.RETARGET, CallStatus.BUSY, times=None)
    for policy.busy_us in (100, 1_000_000):
        with pytest.raises(ControlError) as refused:
            device.control.move(Store.IMS, other_cpu(device, old))
        assert refused.value.errno == errno.EAGAIN  # EBUSY would be success to the caller
        deliver(device, Store.IMS, 1)
        assert cpu_of(device) == old
    policy.stop_failing()
    device.move(Store.IMS, other_cpu(device, old))
    assert cpu_of(device) == other_cpu(device, old)
