# Ref: QEMU hw/vfio/pci.c (vfio_msi_interrupt, vfio_msix_vector_do_use), hw/pci/msix.c
#      (msix_notify, msix_handle_mask_update), hw/vfio-user/pci.c (the name of a device)
"""Who sends the MSI and MSI-X messages that reach a doorbell page, as QEMU's log tells it.

QEMU sends these for a function of ours, and hands them to the function of the call as plain writes.
But it logs what makes it send one just before. A doorbell write is not posted
(``x-no-posted-writes``), so that QEMU waits for its end, with the lock held under which all of this
happens: when the write is looked at, the log's last line is its cause, and what has no such line is
nobody's who is followed.

For a function of ours that line has the address and data. One that fires behind its mask is logged
as well, and so is that it is unmasked: what it sends then is whatever its entry holds.
For a device that QEMU emulates itself, :mod:`~harness.testbed.emulated_senders` knows what is sent.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from harness.qemu.trace import EMULATED_EVENTS, MESSAGE_EVENTS, TraceTail
from harness.spec.msi import Message
from harness.spec.pci import RequesterId
from harness.testbed.emulated_senders import EmulatedSender

_LINE: Final = re.compile(
    rf" (?P<event>{'|'.join((*MESSAGE_EVENTS, *EMULATED_EVENTS, 'vtd_dmar_fault'))}) +(?P<text>.*)"
)
_ON_THE_WAY: Final = re.compile(r"name '(?:vfio-user:.*|vtd-ir)'$")
"""A message that reaches a doorbell page, or the interrupt remapping, is logged as a write too."""
_OURS: Final = re.compile(
    r"\((?P<name>[^)]*)\)"
    r"(?: vector (?P<number>\d+))?(?: 0x(?P<address>[0-9a-f]+)/0x(?P<data>[0-9a-f]+))?"
)
_BLOCKED: Final = re.compile(
    r"sid (?P<requester>0x[0-9a-f]+) fault \d+ addr (?P<address>0x[0-9a-f]+) write 1"
)


class _Vector(NamedTuple):
    """A vector of a function of ours, by QEMU's name of that."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message on its way."""

    requester: RequesterId
    message: Message | None
    """None: it is not told."""


class SenderWatch:
    """Follows what is sent for a machine's functions. Implements ``virte_function.Senders``.

    What a line makes QEMU send is sent at once, if at all: the next line ends it. Only bus
    mastering of a function of ours, which may go off after it has fired, is not followed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trace: TraceTail | None = None
        self._names: dict[str, RequesterId] = {}
        self._emulated: dict[RequesterId, EmulatedSender] = {}
        self.functions: set[int] = set()
        """Requester ids whose messages are all told."""
        self._firing_masked = ""
        self._pending: set[_Vector] = set()
        self._next: list[_Sent] = []
        """What QEMU sends because of the last line, and has not sent yet."""

    def add(self, socket_path: str, requester: RequesterId, *, shared: bool) -> None:
        """Follow a function, that is about to be plugged in.

        :param requester: the source id of its messages.
        :param shared: functions of others have the same.
        """
        with self._lock:
            self._names[f"vfio-user:{socket_path}"] = requester
            if not shared:
                self.functions.add(requester)

    def add_emulated(self, sender: EmulatedSender) -> None:
        """Follow a device that QEMU emulates, and that was just plugged in."""
        with self._lock:
            self._follow()  # what is behind it already is not about this one
            self._emulated[sender.requester] = sender
            self.functions.add(sender.requester)

    @property
    def emulated(self) -> Collection[EmulatedSender]:
        """The devices that QEMU emulates and that are followed."""
        with self._lock:
            return list(self._emulated.values())

    def follow(self, trace: TraceTail) -> None:
        """Read QEMU's log of ``MESSAGE_EVENTS`` and ``EMULATED_EVENTS`` from here on."""
        with self._lock:
            self._trace = trace

    @property
    def followed(self) -> bool:
        """Whether there is a log to read."""
        return self._trace is not None

    # For the function of the call.

    @property
    def known(self) -> Collection[int]:
        """The requester ids that :meth:`sender` may return."""
        with self._lock:
            return {*self._names.values(), *self._emulated}

    def sender(self, message: Message) -> RequesterId | None:
        """Return who has sent the message that has just arrived, None: nobody who is followed."""
        with self._lock:
            self._follow()
            while self._next:
                sent = self._next.pop(0)
                if sent.message in (None, message):
                    return sent.requester
            return None

    def _follow(self) -> None:
        assert self._trace is not None
        for line in _LINE.finditer(self._trace.read()):
            event, text = line["event"], line["text"]
            if event == "vtd_dmar_fault":
                self._note_blocked(text)
            elif not _ON_THE_WAY.search(text):
                self._next = list(self._sent(event, text))

    def _sent(self, event: str, text: str) -> Iterator[_Sent]:
        if event in EMULATED_EVENTS:
            for sender in self._emulated.values():
                for message in sender.take(event, text):
                    yield _Sent(sender.requester, message)
        elif (ours := _OURS.match(text)) and ours["name"] in self._names:
            yield from self._sent_by_ours(event, ours)

    def _sent_by_ours(self, event: str, ours: re.Match[str]) -> Iterator[_Sent]:
        name = ours["name"]
        if event == "vfio_msix_pba_enable":
            self._firing_masked = name  # logged just before the vector
        elif event in ("vfio_msi_disable", "vfio_msix_disable"):
            self._pending = {vector for vector in self._pending if vector.name != name}
        elif event == "vfio_msi_interrupt":
            if self._firing_masked == name:
                self._pending.add(_Vector(name, int(ours["number"])))
            else:
                message = Message(int(ours["address"], 16), int(ours["data"], 16))
                yield _Sent(self._names[name], message)
            self._firing_masked = ""
        elif (vector := _Vector(name, int(ours["number"]))) in self._pending:  # it has a use again
            self._pending.remove(vector)
            yield _Sent(self._names[name], None)

    def _note_blocked(self, text: str) -> None:
        if blocked := _BLOCKED.match(text):
            requester, address = (int(blocked[group], 16) for group in ("requester", "address"))
            for sent in self._next:
                told = sent.message is None or sent.message.address == address
                if told and sent.requester == requester:
                    self._next.remove(sent)
                    return
