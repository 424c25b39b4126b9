"""The host's interrupt remapping: who sends, whether he may, and where it goes."""

from __future__ import annotations

import enum
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from harness.hypervisor.entry import UNTOLD, HostEntry, Link, Route, Sender
from harness.hypervisor.handles import HandleTable, handle_of, index_of
from harness.hypervisor.policy import DeliveryPath, Policy
from harness.spec.hypercall import DOORBELL_PAGE_SIZE
from harness.spec.pci import RequesterId

RECORDS = 1000
"""Faults that are kept; all are counted."""


class Blocked(enum.Enum):
    """Why a message was not delivered."""

    MALFORMED = "it is no message of a doorbell page"
    NO_HANDLE = "its handle is dead or was never given out"
    WRONG_SOURCE = "its sender is not the handle's"
    WRONG_PASID = "its PASID is not the handle's"
    NOT_READY = "the host's halves are not both ready"
    PARKED = "its handle has no route"
    QUENCHED = "its handle is quenched"


@dataclass(frozen=True, slots=True)
class Fault:
    """One blocked message, as a remapping unit would log it."""

    time: float
    reason: Blocked
    page: int
    offset: int
    data: int
    requester: int | None
    """Requester id, where the way of the message tells it; the page tells it otherwise."""
    pasid: int | None

    def __str__(self) -> str:
        sender = f" from {RequesterId(self.requester)}" if self.requester is not None else ""
        sender += f" with PASID {self.pasid}" if self.pasid is not None else ""
        return (
            f"message {self.data:#x}{sender} to doorbell page {self.page} at {self.offset:#x} "
            f"is blocked: {self.reason.value}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Delivered:
    """One message that may pass, and where it goes: equal to no other."""

    entry: HostEntry
    route: Route | Link
    path: DeliveryPath

    def __str__(self) -> str:
        way = "posted" if self.path is DeliveryPath.POSTED else "by the host's handler"
        handle = f"handle {self.entry.handle:#x} of {self.entry.name}"
        return f"message of {handle}: {way} to {self.route}"


class Host:
    """The table of host interrupts, which the guests of one machine share.

    Its methods may be called on any thread; ``lock`` is shared with the partitions.

    :param size: host interrupts there are.
    :param clock: gives the time in seconds; it never goes back.
    """

    def __init__(self, size: int, clock: Callable[[], float]):
        self.handles = HandleTable(size)
        self.clock = clock
        self.lock = threading.RLock()
        self.entries: dict[int, HostEntry] = {}
        """Live entries by handle."""
        self.faults: deque[Fault] = deque(maxlen=RECORDS)
        """Blocked messages, the newest last."""
        self.blocked: Counter[Blocked] = Counter()
        """All of them, by reason."""
        self.handled = 0
        """Messages that a handler of the host took."""

    def signal(
        self,
        partition: object,
        policy: Policy,
        place: int,
        data: int,
        sender: Sender = UNTOLD,
    ) -> Delivered | Fault:
        """Take a message that came for a partition, and decide about it.

        :param place: where in the doorbell pages it was written.
        """
        with self.lock:
            page, offset = divmod(place, DOORBELL_PAGE_SIZE)
            entry, reason = self._entry_of(partition, page, offset, data, sender)
            if entry and not reason:
                reason = self._state_refuses(entry, policy)
            if reason:
                if entry:
                    entry.blocked += 1
                by = sender.requester, sender.pasid
                return self._log(Fault(self.clock(), reason, page, offset, data, *by))
            assert entry is not None
            assert entry.route is not None
            entry.delivered += 1
            if policy.delivery is DeliveryPath.HOST_HANDLER:
                self.handled += 1
            return Delivered(entry, entry.route, policy.delivery)

    def _entry_of(
        self, partition: object, page: int, offset: int, data: int, sender: Sender
    ) -> tuple[HostEntry | None, Blocked | None]:
        if offset % 4:
            return None, Blocked.MALFORMED
        # The generation stands in the offset and the index in the data: both must be a live one's.
        handle = handle_of(offset // 4, index_of(data))
        entry = self.entries.get(handle) if data == index_of(handle) else None
        if entry is None or entry.partition is not partition:
            return None, Blocked.NO_HANDLE
        origin = entry.source.origin
        if page != entry.page or not sender.may_be(origin):
            return entry, Blocked.WRONG_SOURCE
        if sender.pasid != origin.pasid:
            return entry, Blocked.WRONG_PASID
        return entry, None

    def _state_refuses(self, entry: HostEntry, policy: Policy) -> Blocked | None:
        if not entry.ready:
            return Blocked.NOT_READY
        if entry.route is None:
            return Blocked.PARKED
        if entry.quenched_at is None and policy.storm and self._is_storm(entry, policy):
            entry.quenched_at = self.clock()
        return Blocked.QUENCHED if entry.quenched_at is not None else None

    def _is_storm(self, entry: HostEntry, policy: Policy) -> bool:
        limit = policy.storm
        assert limit is not None
        now = self.clock()
        if now - entry.window_start > limit.seconds:
            entry.window_start, entry.window_count = now, 0
        entry.window_count += 1
        return entry.window_count > limit.messages

    def _log(self, fault: Fault) -> Fault:
        self.faults.append(fault)
        self.blocked[fault.reason] += 1
        return fault
