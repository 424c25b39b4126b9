"""What guest tests have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.devices.ims_function.function import ImsFunction
from harness.devices.ledger import Event, Fate
from harness.devices.virte_function.function import VirteFunction
from harness.guest.kernel_log import DmarFault
from harness.host.deadline import Deadline, wait_until
from harness.spec import ims_function as regs
from harness.spec.interrupt import Store
from harness.spec.msi import (
    CompatibilityMessage,
    Message,
    MessageEntry,
    RemappableMessage,
    VectorControl,
)
from harness.spec.pci import Command, Header, RequesterId
from harness.spec.vtd import ENTRY_SIZE, FaultRecord, RemappedEntry
from harness.testbed.plugged import PluggedFunction
from harness.testbed.served import ServedFunction
from harness.testbed.vm import Vm

Virte = ServedFunction[VirteFunction]
"""The function of the vIRTE call."""


def unbind(vm: Vm, slot: str) -> None:
    """Unbind whatever driver a PCI function has in the guest."""
    vm.ssh.run(f"echo {slot} > /sys/bus/pci/devices/{slot}/driver/unbind")


def bind(vm: Vm, slot: str, driver: str) -> None:
    """Bind a driver to a PCI function in the guest."""
    vm.ssh.run(f"echo {slot} > /sys/bus/pci/drivers/{driver}/bind")


def give_back(plugged: PluggedFunction, store: Store, count: int = 1) -> None:
    """Release the first interrupts of a store and free them; 0: all of them."""
    plugged.control.release(store, count=count)
    plugged.control.free(store, count=count)


def deliver(plugged: PluggedFunction, store: Store, *indices: int) -> None:
    """Raise each interrupt, one after the other, and wait for the guest's answer to each."""
    for index in indices:
        plugged.model.raise_and_wait(store, index, Deadline(10, f"{store.name} {index}"))


def deliver_all(plugged: PluggedFunction, store: Store, indices: range) -> None:
    """Raise every interrupt of a range once, and wait for the answer to each of them."""
    events = [plugged.model.raise_interrupt(store, index) for index in indices]
    plugged.model.ledger.wait_answered(events, Deadline(60, f"{store.name} {indices}"))


def other_cpu(plugged: PluggedFunction, cpu: int) -> int:
    """Return another CPU than this one."""
    return (cpu + 1) % plugged.machine.spec.cpus


def runs(plugged: PluggedFunction, store: Store, index: int) -> int:
    """Return how often the guest's handler has run for an interrupt."""
    return sum(plugged.control.interrupt(store, index).counts)


def fence(plugged: PluggedFunction, store: Store, index: int) -> None:
    """Come back when everything that was on its way into the guest has arrived.

    ``index`` is another interrupt that is free to be raised: what left the device before it has
    gone the same way.
    """
    deliver(plugged, store, index, index)


@contextmanager
def damaged_unseen(
    vm: Vm,
    plugged: PluggedFunction,
    index: int,
    store: Store = Store.IMS,
    /,
    *,
    bits: int = 0,
    **fields: int,
) -> Iterator[None]:
    """Change fields of an interrupt's IRTE in guest memory, and put it back.

    The unit is not told: it goes on with the entry as it is cached.

    :param bits: turned over besides: reserved ones are no fields.
    """
    request = plugged.message(store, index).decode()
    assert isinstance(request, RemappableMessage)
    table = plugged.table()
    address = table.address + request.index * ENTRY_SIZE
    entry = table.read_entry(request.index)
    assert isinstance(entry, RemappedEntry)
    wrong = RemappedEntry.unpack(entry.replace(**fields).value ^ bits)
    vm.machine.memory.write(address, wrong.pack())
    try:
        yield
    finally:
        vm.machine.memory.write(address, entry.pack())


@contextmanager
def damaged(
    vm: Vm,
    plugged: PluggedFunction,
    index: int,
    store: Store = Store.IMS,
    /,
    *,
    bits: int = 0,
    **fields: int,
) -> Iterator[None]:
    """As :func:`damaged_unseen`, and the unit is told, as a kernel would tell it."""
    try:
        with damaged_unseen(vm, plugged, index, store, bits=bits, **fields):
            invalidate(vm)
            yield
    finally:
        invalidate(vm)


def left_stale(vm: Vm) -> None:
    """Look at the table as it is looked at when an operation of the guest has returned."""
    watch = vm.observer.unit_watch()
    assert watch is not None
    assert watch.stale_entries()


def invalidate(vm: Vm) -> None:
    """Put into force what was changed in the table, as a kernel would by its invalidation queue."""
    watch = vm.observer.unit_watch()
    assert watch is not None
    watch.invalidate()


def sender_of(fault: DmarFault | FaultRecord) -> RequesterId:
    """Return the source id that the unit saw on a message that it blocked."""
    if isinstance(fault, FaultRecord):
        return RequesterId(fault.source_id)
    return RequesterId.parse(fault.device)


def write_command(plugged: PluggedFunction, command: Command) -> None:
    """Have the guest write the function's Command register, past its driver."""
    plugged.write_config(Header.COMMAND, 2, command.value)


def store_message(plugged: PluggedFunction, index: int, message: Message) -> None:
    """Put a message into an IMS entry, as a driver gone wrong would."""
    tag = regs.ImsControl(pasid=message.pasid or 0, pasid_valid=int(message.pasid is not None))
    control = VectorControl.unpack(tag.value)
    entry = MessageEntry(message.address, message.data, control).pack()
    for half in (0, 8):
        at = index * MessageEntry.SIZE + half
        plugged.model.region_write(regs.BAR_IMS, at, entry[half : half + 8])


def as_without_remapping(plugged: PluggedFunction, message: Message) -> Message:
    """Return what the guest would write for the same CPU and vector if nothing was remapped."""
    entry = plugged.irte(message)
    assert isinstance(entry, RemappedEntry)
    return CompatibilityMessage(
        plugged.destination(entry),
        entry.vector,
        logical=bool(entry.destination_mode),
        redirection_hint=bool(entry.redirection_hint),
    ).message()


def blocked(plugged: PluggedFunction, index: int) -> Event:
    """Raise an IMS interrupt, and return its event when its message was blocked.

    Interrupt 1 has to be free to be raised besides.
    """
    event = plugged.model.raise_interrupt(Store.IMS, index)
    decided = Deadline(5, "a blocked message")
    wait_until(lambda: event.fate is Fate.BLOCKED or event.answered, decided)
    assert not event.answered, str(event)
    fence(plugged, Store.IMS, 1)
    assert not event.answered, str(event)
    return event


@contextmanager
def holding_handles(vm: Vm, door: VirteFunction) -> Iterator[PluggedFunction]:
    """Hold an IMS function with 6 live handles, MSI-X and IMS, in a guest that has negotiated."""
    with vm.granted_call(door), vm.plugged(ImsFunction()) as served:
        device = PluggedFunction(served, vm.control)
        device.wait_bound()
        device.set_up(Store.MSIX, 2)
        device.set_up(Store.IMS, 4)
        deliver(device, Store.IMS, *range(4))
        assert door.partition.live == 6
        yield device
