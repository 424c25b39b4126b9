"""A guest without a VM: drives the whole IMS function through the vfio-user server and client."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from harness.devices.delivery import MessageGate
from harness.devices.ims_function.function import ImsFunction
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.devices.ledger import Event
from harness.host.deadline import Deadline
from harness.spec import ims_function as regs
from harness.spec.ims_function import EVENT_BANKS, CompletionRecord, Register, WorkDescriptor
from harness.spec.interrupt import Store
from harness.spec.pci import CapabilityId, Header
from harness.spec.vfio import RegionIndex
from harness.vfio_user.client import Client
from harness.vfio_user.server import device_server

RING = 0x10_0000
"""I/O virtual address of the ring; completion records follow a page later."""
RECORDS = RING + 0x1000
MEMORY_SIZE = 0x2000

MESSAGE = 0xFEE00018
"""An address that the tests program; the data tells the entries apart."""


def soon(what: str = "the device", seconds: float = 5.0) -> Deadline:
    """Return a deadline that a sound device never reaches."""
    return Deadline(seconds, what)


@dataclass
class Guest:
    """What a guest does to the function, and what reaches it."""

    function: ImsFunction
    client: Client
    messages: queue.SimpleQueue[tuple[int, int]] = field(default_factory=queue.SimpleQueue)
    refused: dict[int, int] = field(default_factory=dict)
    """Errno by message address: what interrupt remapping would answer."""
    on_message: Callable[[], None] = lambda: None
    """Called as a message arrives."""
    eventfds: list[int] = field(default_factory=list)

    def capability(self, capability: CapabilityId) -> int:
        return self.function.config.capabilities[capability].offset

    def write_config(self, offset: int, size: int, value: int) -> None:
        self.client.region_write(RegionIndex.CONFIG, offset, value.to_bytes(size, "little"))

    def read_config(self, offset: int, size: int) -> int:
        return int.from_bytes(self.client.region_read(RegionIndex.CONFIG, offset, size), "little")

    def bus_master(self, on: bool = True) -> None:
        self.write_config(Header.COMMAND, 2, 0x6 if on else 0x2)

    def read(self, register: int) -> int:
        return int.from_bytes(self.client.region_read(regs.BAR_CONTROL, register, 4), "little")

    def write(self, register: int, value: int) -> None:
        self.client.region_write(regs.BAR_CONTROL, register, value.to_bytes(4, "little"))

    # MSI, MSI-X, IMS

    def enable_msi(self, log2: int, address: int = MESSAGE, data: int = 0x40) -> None:
        place = self.capability(CapabilityId.MSI)
        self.write_config(place + 4, 4, address)
        self.write_config(place + 12, 2, data)
        self.write_config(place + 2, 2, 1 | log2 << 4)

    def mask_msi(self, bits: int) -> None:
        self.write_config(self.capability(CapabilityId.MSI) + 16, 4, bits)

    def msi_pending(self) -> int:
        return self.read_config(self.capability(CapabilityId.MSI) + 20, 4)

    def control_msix(self, *, enable: bool = True, function_mask: bool = False) -> None:
        value = enable << 15 | function_mask << 14
        self.write_config(self.capability(CapabilityId.MSIX) + 2, 2, value)

    def program(
        self, bar: int, index: int, data: int, *, address: int = MESSAGE, mask: bool = False
    ) -> None:
        entry = address.to_bytes(8, "little"), (data | mask << 32).to_bytes(8, "little")
        for offset, half in zip((0, 8), entry, strict=True):
            self.client.region_write(bar, 16 * index + offset, half)

    def mask(self, bar: int, index: int, on: bool) -> None:
        self.client.region_write(bar, 16 * index + 12, int(on).to_bytes(4, "little"))

    def wire(self, index: int, count: int) -> None:
        first = len(self.eventfds)
        self.eventfds += [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(count)]
        self.client.wire_irqs(index, 0, self.eventfds[first:])

    def signals(self, number: int, within: float = 5.0) -> int:
        """Return how often an eventfd was signalled, once it was."""
        poll = select.poll()
        poll.register(self.eventfds[number], select.POLLIN)
        return os.eventfd_read(self.eventfds[number]) if poll.poll(within * 1000) else 0

    def next_message(self) -> tuple[int, int]:
        return self.messages.get(timeout=5)

    def no_message(self) -> bool:
        """Whether nothing more was sent: what was comes before the reply to a later access."""
        self.read(Register.ID)
        return self.messages.empty()

    # Events and the work queue

    def slot(self, store: Store, index: int) -> int:
        return EVENT_BANKS[store][0] + 8 * index

    def handle(self, store: Store, index: int, cpu: int = 0) -> int:
        """Do what the interrupt handler does; return the sequence number that it found."""
        sequence = self.read(self.slot(store, index))
        self.answer(store, index, sequence, cpu)
        return sequence

    def answer(self, store: Store, index: int, sequence: int, cpu: int = 0) -> None:
        value = sequence | cpu << 32
        self.client.region_write(
            regs.BAR_CONTROL, self.slot(store, index), value.to_bytes(8, "little")
        )

    def set_up_queue(self, size: int = 8, base: int = RING) -> bytearray:
        """Enable the work queue over new memory, reached by messages; return that memory."""
        memory = bytearray(MEMORY_SIZE)
        self.client.map_served(RING, memory)
        self.write(Register.WQ_SIZE, size)
        self.write(Register.WQ_BASE_LO, base & 0xFFFFFFFF)
        self.write(Register.WQ_BASE_HI, base >> 32)
        self.write(Register.CONTROL, 1)
        return memory

    def wait_for_head(self, head: int) -> None:
        deadline = soon(f"WQ_HEAD == {head}")
        while (seen := self.read(Register.WQ_HEAD)) != head:
            deadline.check(f"WQ_HEAD is {seen}, STATUS {self.read(Register.STATUS):#x}")

    def wait_for_error(self) -> None:
        deadline = soon("STATUS.wq_error")
        while self.read(Register.STATUS) != 2:
            deadline.check(f"STATUS is {self.read(Register.STATUS):#x}")

    def submit(self, memory: bytearray, *descriptors: WorkDescriptor) -> None:
        """Put descriptors at the start of a fresh ring and ring the doorbell."""
        raw = b"".join(descriptor.pack() for descriptor in descriptors)
        memory[: len(raw)] = raw
        self.write(Register.WQ_TAIL, len(descriptors))

    def record(self, memory: bytearray, number: int = 0) -> CompletionRecord:
        start = RECORDS - RING + CompletionRecord.SIZE * number
        return CompletionRecord.unpack(bytes(memory[start : start + CompletionRecord.SIZE]))

    def raise_ims(self, index: int) -> Event:
        return self.function.raise_interrupt(Store.IMS, index)


@contextlib.contextmanager
def guest_of(function: ImsFunction, kind: type[Client] = Client) -> Iterator[Guest]:
    """Hold a server of a function and a guest with bus mastering on; nothing is left at exit.

    :param kind: the client, for one with manners of its own.
    """
    ours, theirs = socket.socketpair()

    def deliver(address: int, data: bytes) -> None:
        if address >> 20 != 0xFEE:
            raise OSError(errno.EFAULT, f"nothing at {address:#x}")
        if address in guest.refused:
            raise OSError(guest.refused[address], "as the test wants it")
        guest.on_message()
        guest.messages.put((address, int.from_bytes(data, "little")))

    with device_server(function, theirs), kind(ours, dma_write=deliver) as client:
        guest = Guest(function, client)
        guest.bus_master()
        try:
            yield guest
        finally:
            for fd in guest.eventfds:
                os.close(fd)


@contextlib.contextmanager
def running_guest(
    spec: ImsFunctionSpec | None = None, gate: MessageGate | None = None
) -> Iterator[Guest]:
    """Hold a function of its own with a guest."""
    with ImsFunction(spec, gate) as function, guest_of(function) as guest:
        yield guest
