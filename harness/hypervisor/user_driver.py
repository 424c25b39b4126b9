"""A driver in user space, with no guest at all: each of its pairs is linked to an eventfd.

The host composes the pair as it does for a guest. But there is no CPU and no vector to route it to:
the message ends in an eventfd of the driver's, and the driver's end is the end of its pairs.
"""

from __future__ import annotations

import errno
from typing import Final

from harness.hypervisor.entry import (
    BOTH_HALVES,
    HostEntry,
    Link,
    Origin,
    Source,
    doorbell_message,
)
from harness.hypervisor.host import Fault, Host
from harness.hypervisor.policy import Policy
from harness.spec.hypercall import DOORBELL_PAGE_SIZE
from harness.spec.interrupt import Store
from harness.spec.msi import NULL_MESSAGE, Message

DOORBELLS: Final = 0xFEB0_0000
"""Where the host takes messages from devices of user space. To the driver a pair is opaque."""


class UserDriver:
    """The pairs of one driver, by index in the function's IMS. Any thread may call any method."""

    def __init__(self, host: Host, policy: Policy | None = None):
        self.host = host
        self.policy = policy or Policy()
        self._entries: dict[int, HostEntry] = {}

    @property
    def live(self) -> int:
        """How many pairs the driver holds."""
        return len(self._entries)

    def acquire(self, index: int) -> None:
        """Compose the pair of an interrupt, unless there is one: it stays the same.

        :raises OSError: ENOSPC: the host has no interrupt left, or the quota is used up.
        """
        with self.host.lock:
            if index in self._entries:
                return
            room = self.live < self.policy.quota
            handle = self.host.handles.take(1) if room else None
            if handle is None:
                raise OSError(errno.ENOSPC, "the host has no interrupt left")
            source = Source(Origin(segment=0, requester=0), Store.IMS, index)
            entry = HostEntry(handle, 0, source, self, route=Link(index), halves=BOTH_HALVES)
            self._entries[index] = self.host.entries[handle] = entry

    def release(self, index: int) -> None:
        """Let a pair be dead from now on; without one nothing happens."""
        with self.host.lock:
            if (entry := self._entries.pop(index, None)) is not None:
                del self.host.entries[entry.handle]
                self.host.handles.give_back(entry.handle, 1)

    def close(self) -> None:
        """Give everything back: the driver has gone."""
        with self.host.lock:
            for index in tuple(self._entries):
                self.release(index)

    def message(self, index: int) -> Message:
        """Return the pair of an interrupt, the null message when there is none."""
        entry = self._entries.get(index)
        return doorbell_message(DOORBELLS, 0, entry.handle) if entry else NULL_MESSAGE

    def signal(self, message: Message) -> Link | Fault:
        """Take a message of the function's and return the link that it ends in."""
        place = message.address - DOORBELLS
        if not 0 <= place < DOORBELL_PAGE_SIZE:
            place = -1  # no doorbell page: malformed
        outcome = self.host.signal(self, self.policy, place, message.data)
        if isinstance(outcome, Fault):
            return outcome
        assert isinstance(outcome.route, Link)
        return outcome.route
