"""A guest of the hypervisor model without a function: calls as bytes, messages as writes."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.hypervisor.calls import Answered, carry_out
from harness.hypervisor.entry import Route, Sender
from harness.hypervisor.host import Delivered, Fault, Host
from harness.hypervisor.partition import Partition
from harness.hypervisor.policy import Policy
from harness.spec.hypercall import (
    VERSION_1_0,
    CallAnswer,
    CallRequest,
    CallStatus,
    EntryAnswer,
    EntryRequest,
    Feature,
    Operation,
    entry_offset,
)
from harness.spec.interrupt import Store
from harness.spec.msi import CompatibilityMessage

DOORBELLS = 0xC000_0000
DEVICE = 0x0100
"""Requester id of 01:00.0."""


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ims(index: int = 0, **fields: int) -> EntryRequest:
    """Return a MAP of an IMS entry: vector 0x40 on APIC id 1."""
    defaults = {"store": Store.IMS, "requester": DEVICE, "count": 1, "destination": 1}
    return EntryRequest(**{**defaults, "vector": 0x40, "index": index, **fields})


def frame_of(request: CallRequest, entries: tuple[EntryRequest, ...] = ()) -> bytes:
    """Return a frame with a request in it."""
    frame = bytearray(entry_offset(len(entries)))
    frame[: CallRequest.SIZE] = request.pack()
    for number, entry in enumerate(entries):
        frame[entry_offset(number) : entry_offset(number) + EntryRequest.SIZE] = entry.pack()
    return bytes(frame)


def write_answers(frame: bytearray, answered: Answered) -> None:
    """Put the answers of a call into its frame."""
    for offset, data in answered.pieces():
        frame[offset : offset + len(data)] = data


@dataclass
class Guest:
    """One partition and what its guest does."""

    host: Host
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        self.partition = Partition(self.host, lambda: DOORBELLS, self.policy)

    def call(
        self, operation: int, *entries: EntryRequest, version: int = 0, features: int = 0
    ) -> tuple[CallAnswer, list[EntryAnswer]]:
        """Make a call, and return its answers as they were written into the frame."""
        request = CallRequest(operation, len(entries), version=version, features=features)
        frame = self.carried_out(frame_of(request, entries))
        header = CallAnswer.unpack(frame[CallRequest.SIZE :][: CallAnswer.SIZE])
        answers = []
        for number in range(len(entries)):
            at = entry_offset(number) + EntryRequest.SIZE
            answers.append(EntryAnswer.unpack(frame[at : at + EntryAnswer.SIZE]))
        return header, answers

    def carried_out(self, frame: bytes) -> bytes:
        """Return a frame after the call in it."""
        whole = bytearray(frame)
        write_answers(whole, carry_out(self.partition, frame))
        return bytes(whole)

    def negotiate(self, features: int = ~Feature(0)) -> CallAnswer:
        """Negotiate version 1.0."""
        return self.call(Operation.NEGOTIATE, version=VERSION_1_0, features=features)[0]

    def map(self, entry: EntryRequest) -> EntryAnswer:
        """Map one entry that is expected to succeed."""
        _, (answer,) = self.call(Operation.MAP, entry)
        assert answer.status == CallStatus.OK, answer
        return answer

    def send(
        self, pair: EntryAnswer, *, requester: int | None = None, pasid: int | None = None
    ) -> Delivered | Fault:
        """Write a pair to its address, as a device does."""
        return self.partition.signal(self.place(pair), pair.data, Sender(requester, pasid))

    def place(self, pair: EntryAnswer) -> int:
        """Return where among the doorbells a pair's address is."""
        return pair.address - DOORBELLS

    def arrival(self, pair: EntryAnswer) -> tuple[int, int] | None:
        """Return the CPU and vector that a pair's message reaches, None when it is blocked."""
        outcome = self.send(pair)
        if isinstance(outcome, Fault):
            return None
        assert isinstance(outcome.route, Route)
        decoded = outcome.route.message().decode()
        assert isinstance(decoded, CompatibilityMessage)
        return decoded.destination, decoded.vector


def new_guest(size: int = 256, policy: Policy | None = None, clock: Clock | None = None) -> Guest:
    """Return a guest of a host of its own that has negotiated everything."""
    guest = Guest(Host(size, clock or Clock()), policy or Policy())
    assert guest.negotiate().status == CallStatus.OK
    return guest
