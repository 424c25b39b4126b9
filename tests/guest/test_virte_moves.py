"""Interrupts move over the vIRTE call while they are raised: none is lost, none is doubled."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from harness.host.deadline import Deadline
from harness.hypervisor.policy import DeliveryPath, Policy
from harness.spec.interrupt import Store
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import Virte, deliver

pytestmark = pytest.mark.shared_vm("module")
by_store = pytest.mark.parametrize("store", STORES, ids=lambda store: store.name)

VECTORS = 4
INTERRUPTS = 1000
MOVES = 3
"""At least, each of all vectors."""


@pytest.mark.cpus(2)
@pytest.mark.capability("D3")
@by_store
def test_interrupts_in_flight_survive_moves(
    virte: Virte, device: PluggedFunction, store: Store
) -> None:
    device.set_up(store, VECTORS)
    pairs = [device.message(store, index) for index in range(VECTORS)]
    moves = raised = 0
    while moves < MOVES:
        deadline = Deadline(60, f"{INTERRUPTS} interrupts under moves")
        burst = device.model.burst(store, range(VECTORS), INTERRUPTS)
        raised += INTERRUPTS
        while not burst.over and not deadline.expired:
            moves += 1
            device.control.move(store, moves % 2, count=VECTORS)
        burst.wait(deadline)
    found = device.control.interrupts(store)
    assert sum(sum(item.counts) for item in found) == raised
    assert [item.index for item in found if not min(item.counts[:2])] == []
    device.model.ledger.assert_quiet()
    assert virte.model.partition.host.blocked.total() == 0
    assert [device.message(store, index) for index in range(VECTORS)] == pairs


def inject_late(inject: Callable[[], None]) -> None:
    """Be a handler of the host's that is slow: longer than a CPU that goes looks for interrupts."""
    threading.Timer(0.02, inject).start()


@pytest.mark.cpus(2)
@pytest.mark.capability("D3", "B3")
@pytest.mark.parametrize("late", [False, True], ids=["soon", "late"])
def test_a_cpu_that_goes_takes_no_interrupt_along(
    vm: Vm, virte: Virte, policy: Policy, device: PluggedFunction, late: bool
) -> None:
    if late:
        policy.delivery, policy.handler = DeliveryPath.HOST_HANDLER, inject_late
    for store in (Store.MSIX, Store.IMS):
        device.set_up(store, VECTORS)
        for index in range(VECTORS):
            device.move(store, 1, index)
    count = INTERRUPTS // 10 if late else INTERRUPTS
    burst = device.model.burst(Store.IMS, range(VECTORS), count)
    vm.control.set_cpu(1, online=False)
    try:
        burst.wait(Deadline(60, f"{count} interrupts while a CPU goes"))
        for store in (Store.MSIX, Store.IMS):
            for index in range(VECTORS):
                deadline = Deadline(10, f"{store.name} {index} on the CPU that stays")
                assert device.model.raise_and_wait(store, index, deadline).cpu != 1
        device.model.ledger.assert_quiet()
        assert virte.model.partition.host.blocked.total() == 0
    finally:
        vm.control.set_cpu(1, online=True)
    device.move(Store.IMS, 1)
    deliver(device, Store.IMS, 0)
