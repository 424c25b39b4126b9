# Ref: QEMU hw/vfio/pci.c (vfio_msi_interrupt, vfio_msix_vector_do_use), hw/pci/msix.c (msix_notify,
#      msix_handle_mask_update), hw/vfio-user/pci.c (the name of a device)
"""Who sends the MSI and MSI-X messages that reach a doorbell page, as QEMU's log tells it.

QEMU sends these for a function of ours, and hands them to the function of the call as plain writes.
But it logs each one just before: whose it is, the vector, address and data. A doorbell write is not
posted (``x-no-posted-writes``), so that QEMU waits for its end, with the lock held under which all
of this happens: when the write is looked at, the log has its line, and none of a later message.

A vector that fires behind its mask is logged as well, and is sent when it is unmasked, with what
its entry holds by then. The log tells when that is, and not what is sent.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Final, NamedTuple

from harness.qemu.trace import TraceTail
from harness.spec.interrupt import InterruptName, Store
from harness.spec.msi import Message
from harness.spec.pci import RequesterId

_EVENT: Final = re.compile(
    r" (?P<what>vfio_msix?_\w+) +\((?P<name>[^)]*)\)"
    r"(?: vector (?P<number>\d+))?(?: 0x(?P<address>[0-9a-f]+)/0x(?P<data>[0-9a-f]+))?"
    r"| vtd_dmar_fault sid 0x(?P<blocked>[0-9a-f]+) fault \d+ addr 0x(?P<at>[0-9a-f]+) write 1"
)


class _Vector(NamedTuple):
    """A vector of a function, by QEMU's name of that."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message on its way."""

    message: Message
    """As it stood in the store when the vector fired."""
    unmasked: bool = False
    """It left later than that."""


class SenderWatch:
    """Follows what is sent for our functions. Implements ``virte_function.Senders``.

    What it remembers is one message for each vector, so that a function passes for the sender of
    no more messages than it has fired. One that a remapping unit blocks is forgotten. One that is
    lost otherwise (bus mastering went off after it was fired) is taken for the next that arrives
    with the same pair.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trace: TraceTail | None = None
        self._names: dict[str, RequesterId] = {}
        self.functions: set[int] = set()
        """Requester ids whose messages are all told."""
        self._firing_masked = ""
        self._pending: dict[_Vector, Message] = {}
        self._sent: dict[_Vector, _Sent] = {}
        """Those that were not seen at a doorbell yet, the newest last."""

    def add(self, socket_path: str, requester: RequesterId, *, shared: bool) -> None:
        """Follow a function, that is about to be plugged in.

        :param requester: the source id of its messages.
        :param shared: functions of others have the same.
        """
        with self._lock:
            self._names[f"vfio-user:{socket_path}"] = requester
            if not shared:
                self.functions.add(requester)

    def follow(self, trace: TraceTail) -> None:
        """Read QEMU's log of ``MESSAGE_EVENTS`` from here on."""
        with self._lock:
            self._trace = trace

    @property
    def followed(self) -> bool:
        """Whether there is a log to read."""
        return self._trace is not None

    # For the function of the call.

    def sender(self, message: Message, interrupt: InterruptName | None) -> RequesterId | None:
        """Return who has sent the message that has just arrived, None: no function of ours.

        :param interrupt: the one that the message's handle is for, if it is a live one.
        """
        with self._lock:
            self._follow()
            for vector, sent in reversed(self._sent.items()):
                if sent.message == message or (
                    sent.unmasked and interrupt == self._interrupt(vector)
                ):
                    del self._sent[vector]
                    return self._names[vector.name]
            return None

    def _interrupt(self, vector: _Vector) -> InterruptName:
        return InterruptName(Store.MSIX, vector.number, function=self._names[vector.name])

    def _follow(self) -> None:
        assert self._trace is not None
        if new := self._trace.read():
            for event in _EVENT.finditer(new):
                if event["blocked"]:
                    self._note_blocked(int(event["blocked"], 16), int(event["at"], 16))
                elif event["name"] in self._names:
                    self._note(event)

    def _note(self, event: re.Match[str]) -> None:
        what, name = event["what"], event["name"]
        if what == "vfio_msix_pba_enable":
            self._firing_masked = name  # logged just before the vector
        elif what == "vfio_msi_interrupt":
            vector = _Vector(name, int(event["number"]))
            message = Message(int(event["address"], 16), int(event["data"], 16))
            if self._firing_masked == name:
                self._pending[vector] = message
            else:
                self._send(vector, _Sent(message))
            self._firing_masked = ""
        elif what == "vfio_msix_vector_do_use":
            vector = _Vector(name, int(event["number"]))
            if vector in self._pending:
                self._send(vector, _Sent(self._pending.pop(vector), unmasked=True))
        elif what in ("vfio_msi_disable", "vfio_msix_disable"):
            for messages in (self._pending, self._sent):
                for vector in [vector for vector in messages if vector.name == name]:
                    del messages[vector]

    def _note_blocked(self, requester: int, address: int) -> None:
        for vector, sent in reversed(self._sent.items()):
            if self._names[vector.name] == requester and sent.message.address == address:
                del self._sent[vector]
                return

    def _send(self, vector: _Vector, sent: _Sent) -> None:
        self._sent.pop(vector, None)  # to the end
        self._sent[vector] = sent
