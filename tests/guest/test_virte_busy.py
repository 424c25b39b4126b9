"""A busy host: the guest waits for as long as it is told, within bounds, and all else goes on."""

from __future__ import annotations

import errno
import re

import pytest

from harness.devices.virte_function.events import Called
from harness.guest.control import ControlError
from harness.host.deadline import Deadline
from harness.hypervisor.policy import Policy
from harness.spec.hypercall import CallStatus, Operation
from harness.spec.interrupt import Store
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import Virte, deliver, other_cpu

pytestmark = pytest.mark.shared_vm("module")
by_store = pytest.mark.parametrize("store", STORES, ids=lambda store: store.name)

TRIES_MAX = 20
"""As the module has it: BUSY_TRIES in guests/module/virte_call.c."""
NEARLY_TOO_LONG_US = 1900
"""Just below what the module waits for in all."""
ROUNDS = 5
"""On a busy host a guest that does not wait may be that late by itself: not each time."""
CLOCKS_DIFFER = 0.01
"""Guest and host know the rate of the time stamp counter to so much."""


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


def delays(vm: Vm) -> list[float]:
    """Return what a delay on each CPU comes to, of what it should be.

    The first CPU is told its rate, as the counter has it. The others measure their own as they
    start (init/calibrate.c), and are wrong by far when the host is busy then.
    """
    text = vm.control.read_file("/proc/cpuinfo")
    rates = [float(rate) for rate in re.findall(r"^bogomips\s*: (.*)$", text, re.MULTILINE)]
    return [rate / rates[0] for rate in rates]


def check_waited(vm: Vm, made: list[Called], us: int) -> None:
    """See that a guest was told to wait, and did so before it called again."""
    told, again = made[:2]
    answers = [event.answered.answer for event in (told, again)]
    assert [answer.status for answer in answers] == [CallStatus.BUSY, CallStatus.OK]
    assert answers[0].retry_us == us
    # Each CPU has a frame of its own.
    delay = us * 1000 * min(delays(vm)[call.frame] for call in (told, again))
    assert again.when - told.when >= delay * (1 - CLOCKS_DIFFER)


@pytest.mark.capability("D2")
def test_a_host_that_is_busy_at_a_map_is_left_alone_for_as_long_as_it_says(
    vm: Vm, virte: Virte, policy: Policy, device: PluggedFunction
) -> None:
    policy.busy_us = NEARLY_TOO_LONG_US
    for index in range(0, 2 * ROUNDS, 2):
        before = len(calls(virte, Operation.MAP))
        policy.fail(Operation.MAP, CallStatus.BUSY)
        device.set_up(Store.IMS, 2, index=index)
        check_waited(vm, calls(virte, Operation.MAP)[before:], policy.busy_us)
        deliver(device, Store.IMS, index, index + 1)


@pytest.mark.cpus(2)
@pytest.mark.capability("D3")
def test_a_host_that_is_busy_at_a_move_is_left_alone_for_as_long_as_it_says(
    vm: Vm, virte: Virte, policy: Policy, device: PluggedFunction
) -> None:
    policy.busy_us = NEARLY_TOO_LONG_US
    device.set_up(Store.IMS, 1)
    for _ in range(ROUNDS):
        new = other_cpu(device, cpu_of(device))
        before = len(calls(virte, Operation.RETARGET))
        policy.fail(Operation.RETARGET, CallStatus.BUSY)
        device.move(Store.IMS, new)
        check_waited(vm, calls(virte, Operation.RETARGET)[before:], policy.busy_us)
        assert cpu_of(device) == new


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
