"""The work queue: a ring of descriptors in guest memory, consumed on the device's worker thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Final, Protocol

from harness.devices.ledger import Event, Fate
from harness.events.limited_log import LimitedLog
from harness.host.deadline import Deadline
from harness.spec.ims_function import (
    WQ_SIZE_MAX,
    CompletionRecord,
    CompletionStatus,
    Opcode,
    WorkDescriptor,
)
from harness.spec.interrupt import Store
from harness.vfio_user.device import Bus, Verdict

_log = logging.getLogger(__name__)

COUNT_MASK: Final = 0xFFFFFFFF
"""Head and tail are free-running 32-bit counts."""
VERDICT_SECONDS: Final = 5.0
"""How long the client may take to answer an interrupt message before the descriptor ends."""

_STATUS: Final = {
    Fate.PENDING: CompletionStatus.SUCCESS,
    Fate.MERGED: CompletionStatus.SUCCESS,
    Fate.SENT: CompletionStatus.SUCCESS,
    Fate.BLOCKED: CompletionStatus.BLOCKED,
    Fate.DISABLED: CompletionStatus.DISABLED,
}


class Interrupts(Protocol):
    """What the queue needs of the function's interrupts."""

    def has(self, store: int, index: int) -> bool:
        """Whether the function has this interrupt."""

    def open(self, store: Store, index: int) -> Event:
        """Return a new event that is not yet decided."""

    def send(self, event: Event) -> Verdict | None:
        """Send an open event; return the client's verdict to come, if any."""

    def abandon(self, event: Event, reason: str) -> None:
        """Forget an open event that will not be sent."""


class WorkQueue:
    """The ring's registers and its consumer.

    Registers change under ``lock``, on the server's thread; descriptors are read, carried out and
    completed on the worker thread, one per turn so that other deferred work gets its own.

    :param may_master: whether the function may access memory now.
    """

    def __init__(
        self, interrupts: Interrupts, may_master: Callable[[], bool], lock: threading.RLock
    ):
        self._interrupts = interrupts
        self._may_master = may_master
        self._lock = lock
        self._log = LimitedLog(_log)
        self.under_way = False
        """Whether a descriptor is being carried out: until then guest memory may be written."""
        self.reset()

    def reset(self) -> None:
        """Return to the state after power-on. A descriptor that is under way is not completed."""
        self.size = self.base = self.head = self.tail = 0
        self.enabled = False
        self.error = ""
        """Why the queue stopped; empty while it is sound."""
        self._running = False
        # Tells a turn of the worker that its queue is no more: a new object for each life.
        self._life = object()

    @property
    def active(self) -> bool:
        """Whether descriptors are taken."""
        return self.enabled and not self.error

    def set_size(self, value: int) -> bool:
        """Set the ring's size in descriptors; False while the queue is enabled."""
        if not self.enabled:
            self.size = value
        return not self.enabled

    def set_base(self, value: int, *, shift: int) -> bool:
        """Set half of the ring's address, at bit ``shift``; False while the queue is enabled."""
        if not self.enabled:
            self.base = self.base & ~(0xFFFFFFFF << shift) | value << shift
        return not self.enabled

    def enable(self, on: bool) -> None:
        """Turn the queue on, with both counts at zero, or off; off clears an error."""
        if on == self.enabled:
            return
        size, base = self.size, self.base
        self.reset()
        self.size, self.base, self.enabled = size, base, on
        if on and not (0 < size <= WQ_SIZE_MAX and size & (size - 1) == 0):
            self._fail(f"{size} is no size for a ring")

    def _fail(self, why: str) -> None:
        self._log.log(logging.WARNING, "the work queue stopped: %s", why)
        self.error = why

    def ring(self, tail: int, bus: Bus | None) -> bool:
        """Take the doorbell; False while the queue is disabled."""
        if not self.enabled:
            return False
        self.tail = tail
        if self.active and (tail - self.head) & COUNT_MASK > self.size:
            self._fail(f"overrun: tail {tail}, head {self.head}, size {self.size}")
        if self.active and not self._running and bus is not None and tail != self.head:
            self._running = True
            self._defer_turn(bus, self._life)
        return True

    def _defer_turn(self, bus: Bus, life: object) -> None:
        bus.defer(lambda: self._turn(bus, life))

    def _turn(self, bus: Bus, life: object) -> None:
        with self._lock:
            if life is not self._life:
                return
            if not self.active or self.head == self.tail:
                self._running = False
                return
            if not self._may_master():
                self._fail("bus mastering is off")
                return
            address = self.base + self.head % self.size * WorkDescriptor.SIZE
            self.under_way = True
        try:
            descriptor = WorkDescriptor.unpack(bus.dma_read(address, WorkDescriptor.SIZE))
            self._carry_out(bus, descriptor, life)
        except OSError as error:
            with self._lock:
                if life is self._life:
                    self._fail(f"descriptor {self.head} at {address:#x}: {error.strerror or error}")
            return
        finally:
            self.under_way = False
        with self._lock:
            if life is self._life:
                self.head = self.head + 1 & COUNT_MASK
        self._defer_turn(bus, life)

    def _carry_out(self, bus: Bus, descriptor: WorkDescriptor, life: object) -> None:
        status = self._check(descriptor)
        event = None
        if status is CompletionStatus.SUCCESS and descriptor.opcode == Opcode.INTERRUPT:
            with self._lock:
                # Opened in the life that the descriptor belongs to, it goes when that ends.
                if life is not self._life:
                    return
                event = self._interrupts.open(Store(descriptor.store), descriptor.index)
        # The handler of the interrupt shall find the record there, and whoever polls it shall not
        # take it for done before the fate of the interrupt is known: the status comes last.
        record = CompletionRecord(
            CompletionStatus.PENDING, event.sequence if event else 0, descriptor.cookie
        ).pack()
        if descriptor.completion:
            try:
                bus.dma_write(descriptor.completion, record)
            except OSError as error:
                if event is not None:
                    reason = f"its completion record cannot be written: {error.strerror or error}"
                    self._interrupts.abandon(event, reason)
                raise
        if event is not None:
            refused = _was_refused(self._interrupts.send(event))
            if event.fate is Fate.DROPPED or life is not self._life:
                return
            status = CompletionStatus.BLOCKED if refused else _STATUS[event.fate]
        if descriptor.completion:
            bus.dma_write(descriptor.completion, status.to_bytes(4, "little"))

    def _check(self, descriptor: WorkDescriptor) -> CompletionStatus:
        if descriptor.flags or descriptor.reserved:
            return CompletionStatus.BAD_RESERVED
        if descriptor.opcode == Opcode.NOP:
            return CompletionStatus.SUCCESS
        if descriptor.opcode != Opcode.INTERRUPT:
            return CompletionStatus.BAD_OPCODE
        if not self._interrupts.has(descriptor.store, descriptor.index):
            return CompletionStatus.BAD_HANDLE
        return CompletionStatus.SUCCESS


def _was_refused(verdict: Verdict | None) -> bool:
    # Asked of the future itself: whoever waits for it may wake before its callbacks have run, and
    # the ledger learns of a refusal in one of those.
    if verdict is None:
        return False
    deadline = Deadline(VERDICT_SECONDS, "the client's answer to an interrupt message")
    try:
        return verdict.exception(deadline.remaining()) is not None
    except FutureTimeout as error:
        raise OSError(str(deadline.error())) from error
