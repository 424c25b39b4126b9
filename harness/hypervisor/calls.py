"""A call as bytes: any frame has an answer, and the answer has a status."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from harness.hypervisor.entry import Refused
from harness.hypervisor.partition import Partition
from harness.hypervisor.rules import check_unused
from harness.spec.hypercall import (
    FRAME_ENTRIES,
    FRAME_SIZE,
    CallAnswer,
    CallRequest,
    CallStatus,
    EntryAnswer,
    EntryRequest,
    Operation,
    entry_offset,
)
from harness.spec.interrupt import Store
from harness.spec.pci import RequesterId

SHOWN: Final = 4
"""Entries that the text of a call has."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A call that was carried out."""

    request: CallRequest
    answer: CallAnswer
    entries: tuple[tuple[EntryRequest, EntryAnswer], ...] = ()

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Give the answers with their places in the frame; what the guest wrote stays as it is."""
        for number, (_, answer) in enumerate(self.entries):
            yield entry_offset(number) + EntryRequest.SIZE, answer.pack()
        yield CallRequest.SIZE, self.answer.pack()

    def __str__(self) -> str:
        name = _name(Operation, self.request.operation)
        status = _name(CallStatus, self.answer.status)
        shown = [_entry(*entry) for entry in self.entries[:SHOWN]]
        if len(self.entries) > SHOWN:
            shown.append(f"and {len(self.entries) - SHOWN} more")
        head = f"{name} of {self.request.count}: {status}, {self.answer.done} done"
        return "; ".join([head, *shown])


def _entry(request: EntryRequest, answer: EntryAnswer) -> str:
    what = f"handle {request.handle:#x}"
    if request.store:
        store = _name(Store, request.store)
        what = f"{store} {request.index} of {RequesterId(request.requester)}"
    if answer.status != CallStatus.OK:
        return f"{what}: {_name(CallStatus, answer.status)}"
    return f"{what}: handle {answer.handle:#x}" if request.store else what


def _name(names: type[enum.IntEnum], value: int) -> str:
    try:
        return names(value).name
    except ValueError:
        return f"{value:#x}"


def carry_out(partition: Partition, frame: bytes) -> Answered:
    """Carry out the call in a frame.

    :param frame: a copy of its bytes, which the guest cannot change any more; any bytes are one.
    """
    frame = frame[:FRAME_SIZE].ljust(FRAME_SIZE, b"\0")
    request = CallRequest.unpack(frame[: CallRequest.SIZE])
    with partition.host.lock:
        try:
            answer, entries = _do(partition, request, frame)
        except Refused as refusal:
            answer, entries = _refusal(refusal), []
        answer = replace(answer, notices=partition.status.value)
    return Answered(request, answer, tuple(entries))


_Entries = list[tuple[EntryRequest, EntryAnswer]]


def _do(partition: Partition, request: CallRequest, frame: bytes) -> tuple[CallAnswer, _Entries]:
    if request.operation not in list(Operation):
        raise Refused(CallStatus.UNSUPPORTED)
    operation = Operation(request.operation)
    if not _header_is_sound(operation, request):
        raise Refused(CallStatus.INVALID)
    if operation is Operation.NEGOTIATE:
        version, features = partition.negotiate(request.version, request.features)
        return CallAnswer(CallStatus.OK, version=version, features=features), []
    if not partition.negotiated:
        raise Refused(CallStatus.NOT_NEGOTIATED)
    if operation is Operation.RELEASE:
        partition.reset()
        return CallAnswer(CallStatus.OK), []
    return _each_entry(partition, operation, request.count, frame)


def _refusal(refusal: Refused, done: int = 0) -> CallAnswer:
    return CallAnswer(refusal.status, done, retry_us=math.ceil(refusal.retry_seconds * 1e6))


def _header_is_sound(operation: Operation, request: CallRequest) -> bool:
    if request.flags or any(request.reserved):
        return False
    negotiates = operation is Operation.NEGOTIATE
    if not negotiates and (request.version or request.features):
        return False
    if negotiates or operation is Operation.RELEASE:
        return request.count == 0
    return 1 <= request.count <= FRAME_ENTRIES


def _each_entry(
    partition: Partition, operation: Operation, count: int, frame: bytes
) -> tuple[CallAnswer, _Entries]:
    # In order, up to the first that fails; what was done stays done.
    action = _action(partition, operation)
    entries: _Entries = []
    requests = [_entry_request(frame, number) for number in range(count)]
    for number, request in enumerate(requests):
        try:
            check_unused(operation, request)
            entries.append((request, action(request)))
        except Refused as refusal:
            entries.append((request, EntryAnswer(refusal.status)))
            skipped = EntryAnswer(CallStatus.NOT_ATTEMPTED)
            entries += [(request, skipped) for request in requests[number + 1 :]]
            return _refusal(refusal, number), entries
    return CallAnswer(CallStatus.OK, count), entries


def _entry_request(frame: bytes, number: int) -> EntryRequest:
    at = entry_offset(number)
    return EntryRequest.unpack(frame[at : at + EntryRequest.SIZE])


def _action(partition: Partition, operation: Operation) -> Callable[[EntryRequest], EntryAnswer]:
    return {
        Operation.MAP: partition.map,
        Operation.RETARGET: partition.retarget,
        Operation.UNMAP: partition.unmap,
        Operation.QUERY: partition.query,
        Operation.REVIVE: partition.revive,
    }[operation]
