"""Row A2: PCI MSI-X."""

from __future__ import annotations

import pytest

from harness.devices.ledger import Fate
from harness.guest.control import ControlError
from harness.host.deadline import Deadline
from harness.spec.interrupt import InterruptName, Store
from harness.spec.pci import CapabilityId, MsixControl
from harness.spec.vfio import IrqIndexNumber
from harness.testbed.plugged import PluggedFunction
from harness.vfio_user.transcript import Exchanged
from tests.guest.support import deliver, deliver_all, fence, runs

pytestmark = [pytest.mark.shared_vm("module"), pytest.mark.capability("A2")]


def test_every_vector_reaches_its_own_handler(ims_device: PluggedFunction) -> None:
    ims_device.set_up(Store.MSIX, 9)
    for index in range(9):
        deliver(ims_device, Store.MSIX, index)
    assert [runs(ims_device, Store.MSIX, index) for index in range(9)] == [1] * 9
    ims_device.model.ledger.assert_quiet()


def test_the_table_holds_what_the_guest_composed(ims_device: PluggedFunction) -> None:
    ims_device.set_up(Store.MSIX, 9)
    for interrupt in ims_device.control.interrupts(Store.MSIX):
        assert ims_device.message(Store.MSIX, interrupt.index) == interrupt.composed
    ims_device.check_audit()


def test_a_masked_vector_is_held_and_delivered_once_on_unmask(
    ims_device: PluggedFunction,
) -> None:
    guest, model = ims_device.control, ims_device.model
    ims_device.set_up(Store.MSIX, 4)
    guest.mask(Store.MSIX, 2)
    # Were it not written, the kernel would hold the interrupt back itself: nothing else would show.
    (entry,) = (e for e in ims_device.stores() if e.interrupt == InterruptName(Store.MSIX, 2))
    assert entry.masked
    held, *more = [model.raise_interrupt(Store.MSIX, 2) for _ in range(3)]
    fence(ims_device, Store.MSIX, 1)
    assert not held.answered
    assert runs(ims_device, Store.MSIX, 2) == 0

    guest.unmask(Store.MSIX, 2)
    model.ledger.wait_answered(held, Deadline(5, "the vector that was held"))
    fence(ims_device, Store.MSIX, 1)
    assert runs(ims_device, Store.MSIX, 2) == 1
    # QEMU holds what is masked by an entry of its table: the device does not know that the three
    # went into one, and waits for two more answers until it is reset. Nor does the pending bit
    # show: the guest reads the device's array (hw/vfio-user/pci.c, vfio_user_pba_ops).
    assert not any(event.answered for event in more)
    guest.reset()
    model.ledger.assert_quiet()


def pending(ims_device: PluggedFunction) -> set[int]:
    """Return the vectors whose bit the guest finds set in the pending bit array."""
    stored = ims_device.control.stored(Store.MSIX, count=ims_device.model.spec.msix_vectors)
    return {item.index for item in stored if item.pending}


def test_the_function_mask_holds_every_vector(ims_device: PluggedFunction) -> None:
    ims_device.set_up(Store.MSIX, 3)
    control = ims_device.model.config.capabilities[CapabilityId.MSIX].offset + 2
    enabled = ims_device.model.config.get(control, 2)
    masked = MsixControl.unpack(enabled).replace(function_mask=1).value

    ims_device.write_config(control, 2, masked)
    held = [ims_device.model.raise_interrupt(Store.MSIX, index) for index in range(3)]
    again = [ims_device.model.raise_interrupt(Store.MSIX, index) for index in range(3)]
    # QEMU holds them too: the device's own mask shows in what became of them.
    assert {event.fate for event in held} == {Fate.PENDING}
    assert {event.fate for event in again} == {Fate.MERGED}
    assert pending(ims_device) == {0, 1, 2}
    assert [runs(ims_device, Store.MSIX, index) for index in range(3)] == [0, 0, 0]

    ims_device.write_config(control, 2, enabled)
    ims_device.model.ledger.wait_answered(held, Deadline(5, "the vectors that were held"))
    assert pending(ims_device) == set()
    fence(ims_device, Store.MSIX, 0)
    assert [runs(ims_device, Store.MSIX, index) for index in range(3)] == [3, 1, 1]


@pytest.mark.cpus(2)  # one has some 200 vectors
@pytest.mark.device(msix_vectors=256)
def test_a_table_of_256_vectors_delivers(ims_device: PluggedFunction) -> None:
    ims_device.set_up(Store.MSIX, 256)
    # Each alone first: two that are out together may be answered for each other.
    deliver(ims_device, Store.MSIX, *range(256))
    deliver_all(ims_device, Store.MSIX, range(256))
    assert {sum(item.counts) for item in ims_device.control.interrupts(Store.MSIX)} == {2}
    ims_device.check_audit()


def test_more_vectors_than_the_table_has_are_refused(ims_device: PluggedFunction) -> None:
    with pytest.raises(ControlError, match="ENOSPC"):
        ims_device.control.alloc(Store.MSIX, 10)
    assert ims_device.control.alloc(Store.MSIX, 10, least=1).done == 9


@pytest.mark.device(msix_noresize=True)
def test_a_host_that_cannot_resize_delivers_all_the_same(ims_device: PluggedFunction) -> None:
    ims_device.set_up(Store.MSIX, 9)
    # QEMU believes it: for one vector more it gives all of them back, and wires all of them again.
    passed = [str(message) for message in ims_device.machine.events.of(Exchanged)]
    whole = f"index={IrqIndexNumber.MSIX} start=0 count=9 fds=9"
    assert any(message.endswith(whole) for message in passed)
    deliver(ims_device, Store.MSIX, *range(9))
    ims_device.check_audit()
