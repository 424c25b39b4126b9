"""Row B3: an interrupt is activated twice, and a CPU that goes hands its interrupts on."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.guest.control import ControlError
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store
from harness.spec.vtd import RemappedEntry
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import deliver

pytestmark = [pytest.mark.shared_vm("module"), pytest.mark.capability("B3")]

PLACEHOLDER = 0xEF
"""MANAGED_IRQ_SHUTDOWN_VECTOR, what an interrupt has before it has a vector (vector.c)."""

VECTORS = 256
"""A CPU has no more than these; some 200 are for devices."""


def test_a_placeholder_is_reserved_at_allocation_and_a_vector_taken_at_request(
    ims_device: PluggedFunction,
) -> None:
    guest = ims_device.control
    for store in STORES:
        guest.alloc(store, 2)
        assert [item.vector for item in guest.interrupts(store)] == [PLACEHOLDER] * 2
        assert vectors_in_irtes(ims_device) <= {PLACEHOLDER}
        guest.request(store, 1)
        idle, requested = guest.interrupts(store)
        assert idle.vector == PLACEHOLDER != requested.vector
        assert vectors_in_irtes(ims_device) - {PLACEHOLDER} == {requested.vector}
        deliver(ims_device, store, 1)
        guest.release(store, 1)
        assert [item.vector for item in guest.interrupts(store)] == [PLACEHOLDER] * 2
        assert vectors_in_irtes(ims_device) <= {PLACEHOLDER}
        guest.free(store, count=2)


def vectors_in_irtes(ims_device: PluggedFunction) -> set[int]:
    """Return the vectors that the function's present IRTEs lead to."""
    return {
        entry.vector for entry in ims_device.irtes().values() if isinstance(entry, RemappedEntry)
    }


@pytest.mark.cpus(2)
def test_when_no_vector_is_left_the_requester_gets_the_error_and_no_cpu_may_go(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    guest = ims_device.control
    wanted = VECTORS * vm.spec.cpus
    if wanted > ims_device.model.spec.ims_entries:
        pytest.skip(f"{vm.spec.cpus} CPUs may have vectors for all that the function has")
    guest.alloc(Store.IMS, wanted, facts=False)
    taken = refused_request(ims_device, Store.IMS, wanted).done
    assert taken
    with pytest.raises(ControlError, match="ENOSPC"):
        vm.control.set_cpu(1, online=False)
    deliver(ims_device, Store.IMS, 0, taken - 1)

    # The other stores have nothing of their own to draw on: of four messages, two that were left.
    for store in (Store.MSIX, Store.MSI):
        guest.alloc(store, 4)
        assert refused_request(ims_device, store, 4).done == 0
        guest.release(Store.IMS, count=2)
        assert refused_request(ims_device, store, 4).done == 2
        deliver(ims_device, store, 0, 1)
        guest.release(store, count=2)
        guest.free(store, count=4)
        guest.request(Store.IMS, count=2)
    deliver(ims_device, Store.IMS, 0, 1, taken - 1)
    ims_device.check_audit()


def refused_request(ims_device: PluggedFunction, store: Store, count: int) -> ControlError:
    """Return the error of a request that finds no vector."""
    with pytest.raises(ControlError) as refused:
        ims_device.control.request(store, count=count)
    assert refused.value.errno == errno.ENOSPC
    return refused.value


def load(plugged: PluggedFunction, store: Store) -> None:
    """Raise some interrupts, as fast as they are answered."""
    burst = plugged.model.burst(store, range(4), 200)
    burst.wait(Deadline(10, "the interrupts under the CPU's end"))


@pytest.mark.cpus(2)
def test_a_cpu_that_goes_offline_hands_every_interrupt_on_and_none_is_lost(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    guest, model = ims_device.control, ims_device.model
    for store in STORES:
        ims_device.set_up(store, 4)
        for index in range(4):
            ims_device.move(store, 1, index)
        stored = [ims_device.message(store, index) for index in range(4)]
        destination = guest.interrupt(store, 0).destination

        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(vm.control.set_cpu, 1, online=False)
            load(ims_device, store)
            while not ended.done():
                load(ims_device, store)
        ended.result()
        load(ims_device, store)
        by_cpu = [*map(sum, zip(*(each.counts for each in guest.interrupts(store)), strict=True))]
        assert by_cpu.pop(1), "none before the CPU's end"
        assert any(by_cpu), "none after it"
        assert 1 not in {irq.cpu for irq in vm.control.irqs() if irq.activated}
        assert [ims_device.message(store, index) for index in range(4)] == stored
        for index in range(4):
            entry = ims_device.irte(stored[index])
            assert isinstance(entry, RemappedEntry)
            assert ims_device.destination(entry) != destination
            event = model.raise_and_wait(store, index, Deadline(5, "a CPU that is left"))
            assert event.cpu != 1
        ims_device.check_audit()

        vm.control.set_cpu(1, online=True)
        ims_device.move(store, 1)
        assert model.raise_and_wait(store, 0, Deadline(5, "the CPU that came back")).cpu == 1
        guest.release(store, count=4)
        guest.free(store, count=4)
    model.ledger.assert_quiet()
