# Ref: Intel Virtualization Technology for Directed I/O, Rev. 5.10, section 5.1.2 "Interrupt Request
#      Formats On Intel 64 Platforms": the Interrupt Format bit tells which one a message is.
"""A hypervisor that traps a store: the guest writes it, and the hardware's store gets another pair.

A message in compatibility format names a CPU and a vector of the guest's, which mean nothing to the
hardware: in its place goes the pair of a host interrupt, and the host's remapping turns that back
when it arrives. Any other message names an entry of a table, be it the guest's own or the host's
(docs/virte.md), and is left as written. The guest reads what it wrote in either case.
"""

from __future__ import annotations

from typing import Final

from harness.hypervisor.entry import (
    BOTH_HALVES,
    HostEntry,
    Origin,
    Route,
    Sender,
    Source,
    doorbell_message,
)
from harness.hypervisor.host import Fault, Host
from harness.hypervisor.policy import Policy
from harness.spec.hypercall import DOORBELL_PAGE_SIZE
from harness.spec.interrupt import InterruptName
from harness.spec.msi import NULL_MESSAGE, CompatibilityMessage, Message
from harness.spec.pci import RequesterId

PAIRS: Final = 0xFEA0_0000
"""Where the host takes the messages of translated stores. The guest never sees a pair."""


class StoreTrap:
    """The trapped stores of one function. Any thread may call any method.

    :param requester_id: of the function: a pair is no other's.
    """

    def __init__(self, host: Host, requester_id: RequesterId):
        self.host = host
        self.requester_id = requester_id
        self._policy = Policy()
        self._entries: dict[InterruptName, HostEntry] = {}
        self._hardware: dict[InterruptName, Message] = {}

    def write(self, interrupt: InterruptName, message: Message) -> None:
        """Take what the guest has written, and write the hardware's store.

        Of a host without an interrupt to spare the guest is not told: the null message stands there
        then, which no device sends.
        """
        with self.host.lock:
            request = message.decode() if message.is_interrupt else None
            if isinstance(request, CompatibilityMessage):
                message = self._translate(interrupt, request)
            else:
                self._give_back(interrupt)
            self._hardware[interrupt] = message

    def reset(self) -> None:
        """Give everything back: the function begins anew."""
        with self.host.lock:
            for interrupt in tuple(self._entries):
                self._give_back(interrupt)
            self._hardware.clear()

    def _give_back(self, interrupt: InterruptName) -> None:
        if (entry := self._entries.pop(interrupt, None)) is not None:
            del self.host.entries[entry.handle]
            self.host.handles.give_back(entry.handle, 1)

    def _translate(self, interrupt: InterruptName, request: CompatibilityMessage) -> Message:
        entry = self._entries.get(interrupt)
        if entry is None:
            if (handle := self.host.handles.take(1)) is None:
                return NULL_MESSAGE
            origin = Origin(segment=0, requester=self.requester_id)
            source = Source(origin, interrupt.store, interrupt.index)
            entry = HostEntry(handle, 0, source, self, halves=BOTH_HALVES)
            self._entries[interrupt] = self.host.entries[handle] = entry
        entry.route = Route.of(request)
        return doorbell_message(PAIRS, 0, entry.handle)

    def hardware(self, interrupt: InterruptName) -> Message:
        """Return what stands in the hardware's store, the null message if nothing was written."""
        return self._hardware.get(interrupt, NULL_MESSAGE)

    def has_pair(self, message: Message) -> bool:
        """Whether a message is to the host, and not to a table of the guest's."""
        return 0 <= message.address - PAIRS < DOORBELL_PAGE_SIZE

    def receive(self, message: Message, requester_id: RequesterId) -> Message | Fault:
        """Turn a pair that has arrived into what is injected: the guest's message."""
        place = message.address - PAIRS
        outcome = self.host.signal(self, self._policy, place, message.data, Sender(requester_id))
        if isinstance(outcome, Fault):
            return outcome
        assert isinstance(outcome.route, Route)
        return outcome.route.message()
