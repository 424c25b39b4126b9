"""Row E2: what a hypervisor that traps a store does with a message, by its format."""

from __future__ import annotations

import time

import pytest

from harness.devices.ledger import Fate
from harness.hypervisor.entry import Route
from harness.hypervisor.host import Host
from harness.spec.interrupt import Store
from harness.spec.msi import CompatibilityMessage, Message, RemappableMessage
from harness.testbed.plugged import PluggedFunction
from harness.testbed.trapped_stores import TrappedStores
from tests.guest.support import as_without_remapping, deliver, give_back, other_cpu

pytestmark = [pytest.mark.capability("E2"), pytest.mark.shared_vm("module")]

HOST_INTERRUPTS = 8

each_store = pytest.mark.parametrize("store", [Store.MSI, Store.MSIX, Store.IMS])


def on_the_wire(device: PluggedFunction, trapped: TrappedStores, store: Store) -> Message:
    """Raise the first interrupt of a store, see it answered, and return the message that left."""
    if store is Store.MSIX:
        trapped.take_msix_table()
    before = len(trapped.wire())
    deliver(device, store, 0)
    (left,) = trapped.wire()[before:]
    return left.message


def read_back(device: PluggedFunction, store: Store, index: int = 0) -> Message:
    """Return the message that the guest finds in the store."""
    (stored,) = device.control.stored(store, index)
    return stored.message


def compatibility(message: Message) -> CompatibilityMessage:
    request = message.decode()
    assert isinstance(request, CompatibilityMessage)
    return request


@each_store
def test_one_guest_writes_both_formats_and_only_compatibility_is_translated(
    ims_device: PluggedFunction, store: Store
) -> None:
    host = Host(HOST_INTERRUPTS, time.monotonic)
    trapped = TrappedStores(ims_device, host)
    ims_device.set_up(store, 1)
    remappable = read_back(ims_device, store)
    assert isinstance(remappable.decode(), RemappableMessage)
    assert on_the_wire(ims_device, trapped, store) == remappable
    assert host.handles.free == HOST_INTERRUPTS, "its entry is the guest's own"

    compatible = as_without_remapping(ims_device, remappable)
    ims_device.control.write(store, 0, compatible)
    pair = on_the_wire(ims_device, trapped, store)
    assert not pair.is_interrupt, "no CPU and no vector of the guest's is on the wire"
    assert read_back(ims_device, store) == compatible
    (entry,) = host.entries.values()
    assert (entry.name.store, entry.delivered) == (store, 1)

    ims_device.control.write(store, 0, remappable)
    assert on_the_wire(ims_device, trapped, store) == read_back(ims_device, store) == remappable
    assert host.handles.free == HOST_INTERRUPTS
    give_back(ims_device, store)


@pytest.mark.machine("no-iommu")
@pytest.mark.parametrize("store", [Store.MSI, Store.MSIX])
def test_what_a_guest_without_remapping_composes_is_translated_and_moves_with_it(
    ims_device: PluggedFunction, store: Store
) -> None:
    host = Host(HOST_INTERRUPTS, time.monotonic)
    trapped = TrappedStores(ims_device, host)
    ims_device.set_up(store, 1)
    pair = on_the_wire(ims_device, trapped, store)
    (entry,) = host.entries.values()
    old = entry.route
    assert Route.of(compatibility(read_back(ims_device, store))) == old

    ims_device.move(store, other_cpu(ims_device, ims_device.control.interrupt(store).cpu))
    assert on_the_wire(ims_device, trapped, store) == pair, "the host's pair stays"
    assert entry.route != old
    assert Route.of(compatibility(read_back(ims_device, store))) == entry.route
    give_back(ims_device, store)


@pytest.mark.kernel("debian-6.12")
@pytest.mark.machine("no-iommu")
def test_a_host_without_an_interrupt_leaves_the_null_message_in_the_hardware(
    ims_device: PluggedFunction,
) -> None:
    trapped = TrappedStores(ims_device, Host(1, time.monotonic))
    ims_device.set_up(Store.MSIX, 2)  # no error reaches the driver
    trapped.take_msix_table()
    deliver(ims_device, Store.MSIX, 0)
    event = ims_device.model.raise_interrupt(Store.MSIX, 1)
    assert (event.fate, event.reason) == (Fate.BLOCKED, "the store holds the null message")
    assert not read_back(ims_device, Store.MSIX, 1).is_null
    give_back(ims_device, Store.MSIX, count=2)
