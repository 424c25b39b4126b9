# Ref: QEMU docs/specs/edu.rst
"""Devices without a driver, and the program in the guest that has them send what it likes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from harness.devices.ledger import Event
from harness.host.deadline import Deadline, wait_until
from harness.pci.message_table import CONTROL_OFFSET
from harness.qemu.pci import bar_address, secondary_bus
from harness.spec import ims_function as regs
from harness.spec.interrupt import Store
from harness.spec.msi import Message
from harness.spec.pci import (
    CapabilityId,
    Command,
    Header,
    MsiControl,
    MsixControl,
    RequesterId,
    msi_offsets,
)
from harness.testbed.lender import SHARED_PORTS
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm
from tests.guest import devmem

MSI: Final = msi_offsets(address_64bit=True, per_vector_mask=True)
"""Of a capability that has no mask, those in front of it are the same."""
MSIX_CONTROL: Final = 2
"""Offset of Message Control in its capability."""
EDU_PORT: Final = f"port{SHARED_PORTS - 1}"
EDU_FACTORIAL, EDU_STATUS, EDU_RAISE = 0x08, 0x20, 0x60
"""Registers of QEMU's educational device: it computes, it interrupts when it is written."""
EDU_FACTORIAL_INTERRUPT: Final = 0x80
"""In its status: it interrupts when it has computed."""


def capability(vm: Vm, slot: str, wanted: CapabilityId) -> int:
    """Return where in a function's config space its capability is."""
    pointer = int(Header.CAPABILITIES)
    while at := vm.control.read_config(slot, pointer, 1):
        if vm.control.read_config(slot, at, 1) == wanted:
            return at
        pointer = at + 1
    raise LookupError(f"{slot} has no capability {wanted.name}")


class BareDevice:
    """A device that no driver is bound to."""

    def __init__(self, vm: Vm, slot: str):
        self._vm = vm
        self._slot = slot
        vm.ssh.run(f"echo 1 > /sys/bus/pci/devices/{slot}/enable")
        self._write(Header.COMMAND, 2, Command(memory_space=1, bus_master=1).value)

    def hold_msi(self, message: Message) -> None:
        """Put a message into its MSI capability, and enable that."""
        self.write_msi("address_low", message.address & 0xFFFF_FFFF)
        self.write_msi("address_high", message.address >> 32)
        self.write_msi("data", message.data)
        self.write_msi("control", MsiControl(enable=1).value)

    def write_msi(self, register: str, value: int) -> None:
        """Write a register of its MSI capability."""
        offset, size = MSI[register]
        self._write(capability(self._vm, self._slot, CapabilityId.MSI) + offset, size, value)

    def _write(self, offset: int, size: int, value: int) -> None:
        self._vm.control.write_config(self._slot, offset, size, value)

    def _write_memory(self, words: Mapping[int, int]) -> None:
        self._vm.ssh.run(" && ".join(devmem.write(words)))


class BareFunction(BareDevice):
    """An IMS function whose driver is unbound: the first entry of its MSI or MSI-X."""

    def __init__(self, vm: Vm, plugged: PluggedFunction, store: Store):
        plugged.unbind()
        super().__init__(vm, plugged.slot)
        self._model = plugged.model
        self._store = store
        self._entry = plugged.bar_address(regs.BAR_MSIX) + regs.MSIX_TABLE_OFFSET

    def hold(self, message: Message) -> None:
        """Put a message into the entry, and enable the store."""
        if self._store is Store.MSI:
            self.hold_msi(message)
            return
        at = capability(self._vm, self._slot, CapabilityId.MSIX) + MSIX_CONTROL
        self._write(at, 2, MsixControl(enable=1).value)
        low, high = message.address & 0xFFFF_FFFF, message.address >> 32
        words = enumerate([low, high, message.data, 0])
        self._write_memory({self._entry + 4 * number: word for number, word in words})

    def mask(self, mask: int) -> None:
        """Set or clear the mask of the entry."""
        if self._store is Store.MSI:
            self.write_msi("mask", mask)
        else:
            self._write_memory({self._entry + CONTROL_OFFSET: mask})

    def fire(self) -> Event:
        """Raise the interrupt."""
        return self._model.raise_interrupt(self._store, 0)


class Edu(BareDevice):
    """QEMU's educational device, which QEMU emulates with all that it sends."""

    def __init__(self, vm: Vm, slot: str, identifier: str):
        super().__init__(vm, slot)
        self._bar = bar_address(vm.machine.qmp, identifier, 0)

    def fire(self) -> None:
        """Have it interrupt."""
        self._write_memory({self._bar + EDU_RAISE: 1})

    def fire_late(self) -> None:
        """Have it interrupt in a second or some, when nobody does anything with it."""
        late = {EDU_STATUS: EDU_FACTORIAL_INTERRUPT, EDU_FACTORIAL: 1 << 30}
        self._write_memory({self._bar + register: value for register, value in late.items()})


@contextmanager
def plugged_edu(vm: Vm) -> Iterator[Edu]:
    """Hold an educational device in the last port of a shared machine."""
    identifier = "edu"
    vm.machine.plug({"driver": "edu", "id": identifier, "bus": EDU_PORT})
    try:
        slot = RequesterId.of(secondary_bus(vm.machine.qmp, EDU_PORT)).slot
        there = f"test -e /sys/bus/pci/devices/{slot}"
        deadline = Deadline(20, "the guest's discovery of QEMU's educational device")
        wait_until(lambda: vm.ssh.run(there, check=False).status == 0, deadline)
        yield Edu(vm, slot, identifier)
    finally:
        vm.machine.unplug(identifier)
