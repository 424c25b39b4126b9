"""Row A1: PCI MSI."""

from __future__ import annotations

import pytest

from harness.devices.ims_function.address_map import Area
from harness.devices.ledger import Fate
from harness.guest.control import ControlError
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store
from harness.spec.pci import CapabilityId
from harness.testbed.plugged import PluggedFunction
from tests.guest.support import deliver, fence, runs

pytestmark = pytest.mark.capability("A1")


@pytest.mark.parametrize("count", [1, 2, 8, 32])
def test_every_message_of_a_block_reaches_its_own_handler(
    ims_device: PluggedFunction, count: int
) -> None:
    ims_device.set_up(Store.MSI, count)
    for index in range(count):
        deliver(ims_device, Store.MSI, index)
        assert [runs(ims_device, Store.MSI, other) for other in (0, index, count - 1)] == [
            1,
            1,
            1 if index == count - 1 else 0,
        ]
    ims_device.model.ledger.assert_quiet()


def test_message_n_is_the_base_with_its_low_bits_replaced(ims_device: PluggedFunction) -> None:
    ims_device.set_up(Store.MSI, 8)
    base = ims_device.message(Store.MSI, 0)
    assert base.data % 8 == 0
    for index in range(8):
        message = ims_device.message(Store.MSI, index)
        assert (message.address, message.data) == (base.address, base.data | index)
        assert message == ims_device.control.interrupt(Store.MSI, index).composed


def test_a_masked_message_is_held_and_delivered_once_on_unmask(
    ims_device: PluggedFunction,
) -> None:
    guest, model = ims_device.control, ims_device.model
    ims_device.set_up(Store.MSI, 4)
    guest.mask(Store.MSI, 2)
    held = model.raise_interrupt(Store.MSI, 2)
    again = model.raise_interrupt(Store.MSI, 2)
    fence(ims_device, Store.MSI, 1)
    assert (held.fate, again.fate) == (Fate.PENDING, Fate.MERGED)
    assert runs(ims_device, Store.MSI, 2) == 0

    guest.unmask(Store.MSI, 2)
    model.ledger.wait_answered(held, Deadline(5, "the message that was held"))
    fence(ims_device, Store.MSI, 1)
    assert runs(ims_device, Store.MSI, 2) == 1
    model.ledger.assert_quiet()


@pytest.mark.device(msi_64bit=False, msi_per_vector_mask=False)
def test_a_function_with_32_bit_addresses_and_no_mask_bits_delivers(
    ims_device: PluggedFunction,
) -> None:
    ims_device.set_up(Store.MSI, 4)
    deliver(ims_device, Store.MSI, 0, 1, 2, 3)
    ims_device.control.mask(Store.MSI, 1)
    ims_device.check_audit()
    place = ims_device.model.config.capabilities[CapabilityId.MSI].offset
    written = {
        access.offset - place
        for access in ims_device.model.accesses.accesses(Area.MSI)
        if access.write
    }
    # Control, address and data (7.7.1, figure 7-45): no upper address, and no mask.
    assert written == {2, 4, 8}


@pytest.mark.device(msi_vectors=4)
def test_the_guest_is_content_with_fewer_messages_or_gets_an_error(
    ims_device: PluggedFunction,
) -> None:
    with pytest.raises(ControlError, match="ENOSPC"):
        ims_device.control.alloc(Store.MSI, 8)
    assert ims_device.control.alloc(Store.MSI, 8, least=1).done == 4
    ims_device.control.request(Store.MSI, count=4)
    deliver(ims_device, Store.MSI, 3)


def test_a_message_that_was_not_granted_is_never_sent(ims_device: PluggedFunction) -> None:
    ims_device.set_up(Store.MSI, 4)
    event = ims_device.model.raise_interrupt(Store.MSI, 4)
    assert event.fate is Fate.DISABLED
    fence(ims_device, Store.MSI, 0)
    ims_device.model.ledger.assert_quiet()
