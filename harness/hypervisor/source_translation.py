# Ref: Intel Virtualization Technology for Directed I/O, Rev. 5.10, section 5.1.2.1 "Interrupt
#      Requests in Intel 64 Compatibility Format": such a message says CPU and vector, and no more.
"""The road not taken (row D11): the host remaps compatibility format by source id; no call is made.

A guest without remapping writes CPU and vector into a store that nobody traps. The host knows by
the source id whose device sent the message, and so whose CPU and vector are meant. All that it ever
learns of an interrupt is what its first message says: it was not told when the interrupt was made,
is not told when it moves or goes, and two that say the same are one to it. What follows from that:
docs/virte.md, "The road not taken".
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from harness.hypervisor.entry import Route
from harness.spec.msi import CompatibilityMessage, Message
from harness.spec.pci import RequesterId


@dataclass(frozen=True, slots=True)
class SourceFault:
    """Why the host did not deliver a message. Nobody can be told."""

    message: Message
    requester_id: RequesterId
    reason: str

    def __str__(self) -> str:
        return f"{self.message} from {self.requester_id} is blocked: {self.reason}"


@dataclass(frozen=True, slots=True)
class Seen:
    """What tells one interrupt from another here."""

    requester_id: RequesterId
    route: Route


class SourceTranslation:
    """A host's remapping by source id. Any thread may call any method.

    :param size: host interrupts there are.
    :param owners: the guest of each device, by the source id that its messages carry.
    """

    def __init__(self, size: int, owners: Mapping[RequesterId, str]):
        self.size = size
        self._owners = owners
        self._lock = threading.Lock()
        self.seen: dict[Seen, int] = {}
        """Messages by what is an interrupt to the host: each takes one of the host's for good."""
        self.quenched: set[Seen] = set()
        """What is blocked because it stormed."""

    def receive(
        self, message: Message, requester_id: RequesterId, guest: str
    ) -> Message | SourceFault:
        """Return what is injected into a guest for a message, or why nothing is.

        :param guest: on whose interrupts the message would land.
        """
        request = message.decode() if message.is_interrupt else None
        if not isinstance(request, CompatibilityMessage):
            return SourceFault(message, requester_id, "it names no CPU and vector")
        if self._owners.get(requester_id) != guest:
            return SourceFault(message, requester_id, f"its sender is not of {guest}")
        seen = Seen(requester_id, Route.of(request))
        with self._lock:
            if seen not in self.seen and len(self.seen) == self.size:
                return SourceFault(message, requester_id, "the host has no interrupt left for it")
            self.seen[seen] = self.seen.get(seen, 0) + 1
            if seen in self.quenched:
                return SourceFault(message, requester_id, "its CPU and vector are quenched")
        return seen.route.message()
