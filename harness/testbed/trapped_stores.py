"""The stores of a function behind a hypervisor that traps them, and the wire that leaves it.

MSI and IMS are written through the model, which tells the trap. The MSI-X table is QEMU's, which
says nothing of what the guest writes there: it is read from QEMU, as the guest would read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.devices.delivery import MessageGate, Routed
from harness.events.stream import Event, Stream, now
from harness.hypervisor.host import Host
from harness.hypervisor.store_trap import StoreTrap
from harness.spec.interrupt import InterruptName, Store
from harness.spec.msi import Message
from harness.testbed.plugged import PluggedFunction


@dataclass(frozen=True, slots=True)
class MessageLeft(Event):
    """A message on the wire between the function and the host's remapping."""

    interrupt: InterruptName
    message: Message

    def __str__(self) -> str:
        return f"{self.interrupt} leaves as {self.message}"


@dataclass(frozen=True, slots=True)
class _HostGate:
    """The host's remapping: its own pairs end here, what was left as written passes on."""

    trap: StoreTrap
    others: MessageGate
    events: Stream
    source: str

    def route(self, store: Store, index: int, message: Message) -> Routed:
        name = InterruptName(store, index)
        self.events.write(MessageLeft(now(), self.source, name, message))
        if self.trap.has_pair(message):
            return self.trap.receive(message, self.trap.requester_id)
        return self.others.route(store, index, message)


class TrappedStores:
    """A function whose stores a hypervisor traps from now on: begin before they are used."""

    def __init__(self, plugged: PluggedFunction, host: Host):
        self._plugged = plugged
        self.trap = StoreTrap(host, plugged.requester_id)
        source = plugged.model.writer.source
        events = plugged.machine.events
        plugged.model.trap_stores(
            self.trap, lambda others: _HostGate(self.trap, others, events, source)
        )

    def take_msix_table(self) -> None:
        """Tell the trap what QEMU has trapped: the entries of the MSI-X table that are in use."""
        for index, entry in enumerate(self._plugged.msix_table()):
            if not entry.control.mask:
                message = Message(entry.address, entry.data)
                self.trap.write(InterruptName(Store.MSIX, index), message)

    def wire(self) -> list[MessageLeft]:
        """Return the messages that have left the function, in order."""
        events = self._plugged.machine.events
        return events.of(MessageLeft, source=self._plugged.model.writer.source)
