"""Rows E1 and E3: who sees the guest's accesses to its message stores."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from harness.devices.ims_function.address_map import Area
from harness.guest.function_control import FunctionControl
from harness.pci.message_table import ENTRY_SIZE
from harness.pci.store_order import StoreAccess
from harness.qemu.trace import MAPPED, MSIX_TABLE, EmulatedAccess
from harness.spec.ims_function import BAR_IMS, BAR_MSIX_SIZE
from harness.spec.interrupt import Store
from harness.spec.pci import CapabilityId
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm

pytestmark = pytest.mark.shared_vm("module")


def wired(plugged: PluggedFunction, store: Store) -> set[int]:
    """Return the interrupts for which the host (QEMU) has set up an eventfd."""
    if store is Store.IMS:
        return set()
    session = plugged.server.session
    assert session is not None
    return {
        index
        for index in range(plugged.model.spec.count(store))
        if session.irq_is_wired(store, index)
    }


STEPS: dict[str, Callable[[FunctionControl, Store], object]] = {
    "allocate": lambda guest, store: guest.alloc(store, 2),
    "request": lambda guest, store: guest.request(store, count=2),
    "move": lambda guest, store: guest.move(store, cpu=1, index=1),
    "mask": lambda guest, store: guest.mask(store, index=1),
    "unmask": lambda guest, store: guest.unmask(store, index=1),
    "release": lambda guest, store: guest.release(store, count=2),
    "free": lambda guest, store: guest.free(store, count=2),
}
"""The life of two interrupts."""


def message_of(store: Store, index: int) -> str:
    """Return the accesses that write a message: MSI-X is read back, to be there when it counts."""
    parts = f"{store.name}[{index}]"
    written = f"{parts}.address <- message, {parts}.address+4 <- message, {parts}.data <- message"
    return written + (f", {parts}.data -> message" if store is Store.MSIX else "")


def masked(store: Store, index: int) -> str:
    """Return the accesses that mask an entry: read back, MSI-X at the beginning of its table."""
    read = "MSIX[0].address -> message" if store is Store.MSIX else f"IMS[{index}].control -> 0x1"
    return f"{store.name}[{index}].control <- 0x1, {read}"


MSI_MESSAGE = "MSI+0x4 <- message, MSI+0x8 <- message, MSI+0xc <- message"

ACCESSES = {
    Store.MSI: {
        # Off, all masked, two messages; the message, and on.
        "allocate": "MSI+0x2 <- 0x18a, MSI+0x10 <- 0xffffffff, MSI+0x2 <- 0x19a, "
        f"{MSI_MESSAGE}, MSI+0x2 <- 0x19b",
        "request": f"MSI+0x2 <- 0x19b, {MSI_MESSAGE}, "
        "MSI+0x10 <- 0xfffffffe, MSI+0x10 <- 0xfffffffc",
        "move": "",
        "mask": "MSI+0x10 <- 0xfffffffe",
        "unmask": "MSI+0x10 <- 0xfffffffc",
        "release": f"MSI+0x10 <- 0xfffffffd, MSI+0x2 <- 0x19b, {MSI_MESSAGE}, "
        "MSI+0x10 <- 0xffffffff",
        "free": "MSI+0x2 <- 0x19a, MSI+0x10 <- 0x0",
    },
    Store.MSIX: {
        # On and masked as a whole, until the message is there and every entry is masked.
        "allocate": "MSIX+0x2 <- 0xc008, MSIX[0].control -> 0x1, MSIX[1].control -> 0x1, "
        + ", ".join(message_of(Store.MSIX, index) for index in range(2))
        + "".join(f", MSIX[{index}].control <- 0x1" for index in range(9))
        + ", MSIX+0x2 <- 0x8008",
        "request": ", ".join(
            f"{message_of(Store.MSIX, index)}, MSIX[{index}].control <- 0x0" for index in range(2)
        ),
        "move": "",
        "mask": masked(Store.MSIX, 1),
        "unmask": "MSIX[1].control <- 0x0",
        "release": ", ".join(
            f"{masked(Store.MSIX, index)}, {message_of(Store.MSIX, index)}" for index in range(2)
        ),
        "free": f"{masked(Store.MSIX, 0)}, {masked(Store.MSIX, 1)}, MSIX+0x2 <- 0x8",
    },
    Store.IMS: {
        "allocate": "",
        "request": ", ".join(
            f"{message_of(Store.IMS, index)}, IMS[{index}].control <- 0x0" for index in range(2)
        ),
        "move": "",
        "mask": masked(Store.IMS, 1),
        "unmask": "IMS[1].control <- 0x0",
        "release": ", ".join(
            f"{masked(Store.IMS, index)}, {message_of(Store.IMS, index)}" for index in range(2)
        ),
        "free": "",
    },
}
"""Every access to the store, in order, with remapping: a move leaves the store alone.

They are the same in v6.1, v6.12 and v7.3. (The null message is a message, too.)
"""

HOST_CALLS = {
    Store.MSI: {"allocate": "MSI wire 0+2", "free": "MSI disable"},
    Store.MSIX: {
        # QEMU turns MSI-X on with one vector that leads nowhere, and wires each at its unmask.
        "allocate": "MSIX unwire 0+1",
        "request": "MSIX wire 0+1, MSIX wire 1+1",
        "unmask": "MSIX wire 1+1",
        "free": "MSIX disable",
    },
    Store.IMS: {},
}
"""The host set-up that follows, as the server sees it."""


def shown(access: StoreAccess) -> str:
    """Return an access with the message left out that the kernel chose."""
    is_message = access.register in ("MSI+0x4", "MSI+0x8", "MSI+0xc") or (
        access.index is not None and not access.register.endswith("control")
    )
    return re.sub("0x[0-9a-f]+$", "message", str(access)) if is_message else str(access)


def life(function: PluggedFunction, store: Store) -> tuple[dict[str, str], dict[str, str]]:
    """Take two interrupts through their life; return accesses and host calls of each step."""
    accesses: dict[str, str] = {}
    calls: dict[str, str] = {}
    for name, step in STEPS.items():
        with function.trapped() as traps:
            step(function.control, store)
        accesses[name] = ", ".join(map(shown, traps.accesses()))
        if called := ", ".join(map(str, traps.host_calls())):
            calls[name] = called
    return accesses, calls


@pytest.mark.cpus(2)
@pytest.mark.capability("E1")
@pytest.mark.device(ims_mapped=False)
@pytest.mark.parametrize("store", [Store.MSI, Store.MSIX, Store.IMS], ids=lambda store: store.name)
def test_every_access_is_trapped_in_its_order_and_so_is_the_host_set_up(
    ims_device: PluggedFunction, store: Store
) -> None:
    assert wired(ims_device, store) == set()
    accesses, calls = life(ims_device, store)
    assert accesses == ACCESSES[store]
    assert calls == HOST_CALLS[store]
    assert wired(ims_device, store) == set()


@pytest.mark.capability("E1")
@pytest.mark.parametrize("store", [Store.MSI, Store.MSIX], ids=lambda store: store.name)
def test_the_host_has_set_up_what_the_guest_requested(
    ims_device: PluggedFunction, store: Store
) -> None:
    ims_device.set_up(store, 4)
    assert wired(ims_device, store) >= {0, 1, 2, 3}


@pytest.mark.capability("E1")
def test_the_trap_sees_the_messages_that_the_guest_writes_to_msix(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    with vm.machine.trapped_accesses() as trapped:
        ims_device.set_up(Store.MSIX, 3)
    # Offset in the BAR, which is aligned to its size, to the last value written there.
    written = {
        access.address % BAR_MSIX_SIZE: access.value
        for access in trapped.of(MSIX_TABLE)
        if access.write
    }
    for interrupt in ims_device.control.interrupts(Store.MSIX):
        entry = interrupt.index * ENTRY_SIZE
        assert written[entry] == interrupt.composed.address
        assert written[entry + 8] == interrupt.composed.data


@pytest.mark.capability("E1")
def test_the_trap_sees_the_message_that_the_guest_writes_to_msi(
    ims_device: PluggedFunction,
) -> None:
    ims_device.set_up(Store.MSI, 2)
    place = ims_device.model.config.capabilities[CapabilityId.MSI].offset
    written = {
        access.offset - place: access.value
        for access in ims_device.model.accesses.accesses(Area.MSI)
        if access.write
    }
    composed = ims_device.control.interrupt(Store.MSI, 0).composed
    assert (written[4], written[8], written[12]) == (composed.address, 0, composed.data)


@pytest.mark.cpus(2)
@pytest.mark.capability("E3")
@pytest.mark.device(ims_mapped=True)
def test_a_mapped_array_costs_no_trapped_access_in_its_whole_life(
    ims_device: PluggedFunction,
) -> None:
    accesses, calls = life(ims_device, Store.IMS)
    assert accesses == dict.fromkeys(STEPS, "")
    assert calls == {}


@pytest.mark.capability("E3")
@pytest.mark.device(ims_mapped=True)
def test_what_qemu_serves_of_a_mapped_array_is_seen_and_the_monitors_is_not_the_guests(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    array = ims_device.bar_address(BAR_IMS)
    with ims_device.trapped() as traps:
        vm.machine.qmp.human(f"xp /4wx {array + 2 * ENTRY_SIZE:#x}")
    served = [item for item in vm.machine.events.of(EmulatedAccess) if item.region == MAPPED]
    assert [(item.address, item.cpu, item.write) for item in served][:1] == [
        (2 * ENTRY_SIZE, -1, False)
    ]
    assert traps.accesses() == []
