"""One host interrupt that a guest holds, and the message that stands for it."""

from __future__ import annotations

import enum
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final, Self

from harness.hypervisor.handles import generation_of, index_of
from harness.spec.hypercall import DOORBELL_PAGE_SIZE, CallStatus
from harness.spec.interrupt import InterruptName, Store
from harness.spec.msi import CompatibilityMessage, Message
from harness.spec.pci import RequesterId


class Refused(Exception):
    """A request is not granted. It becomes a status in the answer, never more.

    :param retry_seconds: of BUSY: before which there is no use in asking again.
    """

    def __init__(self, status: CallStatus, retry_seconds: float = 0.0):
        super().__init__(status.name)
        self.status = status
        self.retry_seconds = retry_seconds


@dataclass(frozen=True, slots=True)
class Origin:
    """Who may send an interrupt's messages."""

    segment: int
    requester: int
    pasid: int | None = None


@dataclass(frozen=True, slots=True)
class Sender:
    """What the way of a message tells of who has sent it, besides its doorbell page."""

    requester: int | None = None
    """Requester id; None: it is not told."""
    pasid: int | None = None
    strangers: Container[int] = ()
    """Requester ids that it is not, when it is not told."""

    def may_be(self, origin: Origin) -> bool:
        """Return whether this may be who sends an interrupt's messages, its PASID apart."""
        if self.requester is not None:
            return self.requester == origin.requester
        return origin.requester not in self.strangers


UNTOLD: Final = Sender()
"""Of a message whose way tells nothing."""


@dataclass(frozen=True, slots=True)
class Source:
    """Which interrupt of a guest an entry is for: one entry at most for each."""

    origin: Origin
    store: int
    index: int


@dataclass(frozen=True, slots=True)
class Route:
    """Where an interrupt goes in the guest."""

    destination: int
    vector: int
    delivery_mode: int = 0
    logical: bool = False
    redirection_hint: bool = False

    @classmethod
    def of(cls, request: CompatibilityMessage) -> Self:
        """Return where a message in compatibility format goes."""
        return cls(
            request.destination,
            request.vector,
            request.delivery_mode,
            logical=request.logical,
            redirection_hint=request.redirection_hint,
        )

    def __str__(self) -> str:
        kind = "logical destination" if self.logical else "APIC id"
        return f"vector {self.vector:#x} of {kind} {self.destination:#x}"

    def message(self) -> Message:
        """Return what is injected: compatibility format names CPU and vector directly."""
        return CompatibilityMessage(
            destination=self.destination,
            vector=self.vector,
            delivery_mode=self.delivery_mode,
            logical=self.logical,
            redirection_hint=self.redirection_hint,
        ).message()


@dataclass(frozen=True, slots=True)
class Link:
    """Where an interrupt goes when there is no guest: an eventfd, by its number with the driver."""

    index: int

    def __str__(self) -> str:
        return f"eventfd {self.index}"


class Half(enum.Flag):
    """What the host has ready for an entry. Both are needed before a pair is handed out."""

    ROUTE_REGISTERED = enum.auto()
    """The guest's side: where the interrupt is to be injected."""
    INTERRUPT_STARTED = enum.auto()
    """The host's side: its own remapping entry is live."""


BOTH_HALVES = Half.ROUTE_REGISTERED | Half.INTERRUPT_STARTED


@dataclass(slots=True)
class HostEntry:
    """The host's interrupt behind one handle."""

    handle: int
    page: int
    """Doorbell page of its origin."""
    source: Source
    partition: object
    """Who holds it; compared, never called."""
    route: Route | Link | None = None
    """None: parked."""
    halves: Half = field(default=Half(0))
    quenched_at: float | None = None
    delivered: int = 0
    blocked: int = 0
    number: int = 0
    """In its block."""
    window_start: float = 0.0
    window_count: int = 0

    @property
    def name(self) -> InterruptName:
        """The interrupt that it is for."""
        origin = self.source.origin
        return InterruptName(
            Store(self.source.store),
            self.source.index + self.number,
            function=RequesterId(origin.requester),
            pasid=origin.pasid,
        )

    def __str__(self) -> str:
        where = "parked" if self.route is None else f"to {self.route}"
        state = "" if self.ready else ", not ready"
        state += ", quenched" if self.quenched_at is not None else ""
        return (
            f"handle {self.handle:#x} of {self.name}: {where}, "
            f"{self.delivered} delivered, {self.blocked} blocked{state}"
        )

    @property
    def ready(self) -> bool:
        """Whether both host halves are."""
        return self.halves == BOTH_HALVES


@dataclass(slots=True)
class Block:
    """The entries that one MAP gave out together: one, or the messages of an MSI capability."""

    source: Source
    asked: int
    """Handles that were asked for; a partial grant has fewer entries."""
    entries: list[HostEntry] = field(default_factory=list)
    ready_at: float = 0.0
    """When the host's interrupts are started."""
    handed_out: bool = False
    """The guest has seen the pair; before that the block is the host's alone."""

    @property
    def handle(self) -> int:
        """The first handle."""
        return self.entries[0].handle


def doorbell_message(base: int, page: int, handle: int) -> Message:
    """Return the pair of a handle: the page tells the origin, the data the index.

    :param base: address of the doorbell BAR.
    """
    address = base + page * DOORBELL_PAGE_SIZE + 4 * generation_of(handle)
    return Message(address, index_of(handle))
