"""Row A1: PCI MSI."""

from __future__ import annotations

import pytest

from harness.devices.ims_function.address_map import Area
from harness.devices.ledger import Fate
from harness.guest.control import ControlError
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store
from harness.spec.msi import Message
from harness.spec.pci import CapabilityId, MsiControl, msi_offsets
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import deliver, fence, give_back, runs

pytestmark = [pytest.mark.shared_vm("module"), pytest.mark.capability("A1")]

COUNTS = (1, 2, 4, 8, 16, 32)
NEIGHBOURS = range(1, 9)
"""How many vectors are taken before an interrupt gets one: each shifts that."""


def place(ims_device: PluggedFunction, register: str) -> tuple[int, int]:
    """Return offset and size of a register of the capability in config space."""
    spec = ims_device.model.spec
    registers = msi_offsets(address_64bit=spec.msi_64bit, per_vector_mask=spec.msi_per_vector_mask)
    offset, size = registers[register]
    return ims_device.model.config.capabilities[CapabilityId.MSI].offset + offset, size


def control(ims_device: PluggedFunction) -> MsiControl:
    """Return the capability's control register."""
    return MsiControl.unpack(ims_device.model.config.get(*place(ims_device, "control")))


def grant(ims_device: PluggedFunction, log2: int, *, enable: bool = True) -> None:
    """Have the guest write another number of messages, past its kernel."""
    changed = control(ims_device).replace(multiple_message_enable=log2, enable=enable)
    ims_device.write_config(*place(ims_device, "control"), changed.value)


@pytest.mark.parametrize(
    ("wide", "maskable"),
    [
        pytest.param(
            wide,
            maskable,
            marks=pytest.mark.device(msi_64bit=wide, msi_per_vector_mask=maskable),
            id=f"{64 if wide else 32}-bit{'-masked' if maskable else ''}",
        )
        for wide in (True, False)
        for maskable in (True, False)
    ],
)
def test_blocks_of_every_size_deliver_in_every_shape_of_the_capability(
    ims_device: PluggedFunction, wide: bool, maskable: bool
) -> None:
    for count in COUNTS:
        ims_device.set_up(Store.MSI, count)
        assert 1 << control(ims_device).multiple_message_enable == count
        check_messages(ims_device, count)
        deliver(ims_device, Store.MSI, *range(count))
        assert [sum(item.counts) for item in ims_device.control.interrupts(Store.MSI)] == [
            1
        ] * count
        if count < 32:  # the first message that was not granted is never sent
            assert ims_device.model.raise_interrupt(Store.MSI, count).fate is Fate.DISABLED
        check_mask(ims_device, count - 1, maskable=maskable)
        if maskable and count == 4:
            check_masks_apart(ims_device)
        ims_device.check_audit()
        ims_device.control.release(Store.MSI, count=count)
        ims_device.control.free(Store.MSI, count=count)

    # The registers of this shape and no others (7.7.1): an upper address, and a mask.
    expected = {"control", "address_low", "data"}
    expected |= ({"address_high"} if wide else set()) | ({"mask"} if maskable else set())
    written = {
        access.offset for access in ims_device.model.accesses.accesses(Area.MSI) if access.write
    }
    assert written == {place(ims_device, register)[0] for register in expected}
    ims_device.model.ledger.assert_quiet()


def check_messages(ims_device: PluggedFunction, count: int) -> None:
    """Check that message N is the base with its low data bits replaced, from every side."""
    base = ims_device.message(Store.MSI, 0)
    assert base.data % count == 0
    wanted = [Message(base.address, base.data | index) for index in range(count)]
    guest = ims_device.control
    assert [item.message for item in guest.stored(Store.MSI, count=count)] == wanted
    assert [item.composed for item in guest.interrupts(Store.MSI)] == wanted
    entries = [entry for entry in ims_device.stores() if entry.store is Store.MSI and entry.enabled]
    assert [Message(entry.address or 0, entry.data or 0) for entry in entries] == wanted


def check_mask(ims_device: PluggedFunction, index: int, *, maskable: bool) -> None:
    """Check that a message raised while masked runs its handler once, when it is unmasked.

    Without mask bits it is sent, and the kernel holds it.
    """
    guest, model = ims_device.control, ims_device.model
    before = runs(ims_device, Store.MSI, index)
    guest.mask(Store.MSI, index)
    held = model.raise_interrupt(Store.MSI, index)
    if maskable:
        assert held.fate is Fate.PENDING
        assert model.raise_interrupt(Store.MSI, index).fate is Fate.MERGED
    else:
        assert held.fate is Fate.SENT
    if index:
        fence(ims_device, Store.MSI, 0)
    assert runs(ims_device, Store.MSI, index) == before
    guest.unmask(Store.MSI, index)
    model.ledger.wait_answered(held, Deadline(5, "the message that was held"))
    if index:
        fence(ims_device, Store.MSI, 0)
    assert runs(ims_device, Store.MSI, index) == before + 1


def check_masks_apart(ims_device: PluggedFunction) -> None:
    """Check that masking or unmasking a message leaves the mask bits of others alone."""
    guest, model = ims_device.control, ims_device.model
    guest.mask(Store.MSI, 1, 2)
    held = [model.raise_interrupt(Store.MSI, index) for index in (1, 2)]
    assert [event.fate for event in held] == [Fate.PENDING] * 2
    guest.unmask(Store.MSI, 1)
    model.ledger.wait_answered(held[0], Deadline(5, "the message that is unmasked first"))
    assert held[1].fate is Fate.PENDING
    guest.unmask(Store.MSI, 2)
    model.ledger.wait_answered(held[1], Deadline(5, "the message that is unmasked last"))


@pytest.mark.kernel("debian-6.12")
@pytest.mark.machine("caching")
@pytest.mark.leaves("audit")  # the capability was written past the kernel
def test_the_count_is_latched_when_msi_is_enabled_and_only_then(
    ims_device: PluggedFunction,
) -> None:
    ims_device.set_up(Store.MSI, 8)
    # More than before, not fewer: QEMU latches nothing, and aborts when a message is raised that
    # is not granted any more (hw/pci/msi.c, msi_prepare_message()).
    grant(ims_device, 5)
    deliver(ims_device, Store.MSI, *range(8))
    assert ims_device.model.raise_interrupt(Store.MSI, 8).fate is Fate.DISABLED
    grant(ims_device, 1, enable=False)
    grant(ims_device, 1)
    deliver(ims_device, Store.MSI, 0, 1)
    assert ims_device.model.raise_interrupt(Store.MSI, 2).fate is Fate.DISABLED
    ims_device.model.ledger.assert_quiet()


@pytest.mark.kernel("debian-6.12")
@pytest.mark.machine("no-iommu")
def test_the_low_bits_of_base_data_that_is_not_zero_are_replaced(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    # Without remapping the data is a vector, and a kernel asks for one message only. With two, and
    # the low bit set in the base, message 0 is an even vector again: that of its handler.
    with vm.ims_function() as neighbour:
        for count in NEIGHBOURS:
            neighbour.set_up(Store.MSIX, count)
            ims_device.set_up(Store.MSI, 1)
            base = ims_device.message(Store.MSI, 0)
            if base.data % 2 == 0:
                break
            give_back(ims_device, Store.MSI, 1)
            give_back(neighbour, Store.MSIX, count)
    assert base.data
    assert base.data % 2 == 0
    grant(ims_device, 1, enable=False)
    ims_device.write_config(*place(ims_device, "data"), base.data | 1)
    grant(ims_device, 1)
    assert [ims_device.message(Store.MSI, index).data for index in (0, 1)] == [
        base.data,
        base.data | 1,
    ]
    deliver(ims_device, Store.MSI, 0, 0)
    ims_device.model.ledger.assert_quiet()


@pytest.mark.device(msi_vectors=4)
def test_the_guest_is_content_with_fewer_messages_or_gets_an_error(
    ims_device: PluggedFunction,
) -> None:
    with pytest.raises(ControlError, match="ENOSPC"):
        ims_device.control.alloc(Store.MSI, 8)
    assert ims_device.control.alloc(Store.MSI, 8, least=1).done == 4
    ims_device.control.request(Store.MSI, count=4)
    deliver(ims_device, Store.MSI, 3)
