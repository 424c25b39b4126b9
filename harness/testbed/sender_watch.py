# Ref: QEMU hw/vfio-user/pci.c (the name of a device), util/error-report.c (its complaints)
"""Who sends the MSI and MSI-X messages that reach a doorbell page, as QEMU's log tells it.

QEMU sends these for a function of ours, and hands them to the function of the call as plain writes.
But it logs what makes it send one just before. A doorbell write is not posted
(``x-no-posted-writes``), so that QEMU waits for its end, with the lock held under which all of this
happens: when the write is looked at, the log's last line is its cause, and what has no such line is
nobody's who is followed.

What a line makes QEMU send is known to the one that it is about: :mod:`.served_sender` for a
function of ours, :mod:`.emulated_senders` for a device that QEMU emulates itself.
"""

from __future__ import annotations

import heapq
import re
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from harness.pci.config_space import ConfigSpace
from harness.qemu.trace import EMULATED_EVENTS, MESSAGE_EVENTS, LogTail
from harness.spec.msi import Message
from harness.spec.pci import RequesterId
from harness.testbed.emulated_senders import EmulatedSender
from harness.testbed.served_sender import ServedSender

_EVENTS: Final = dict.fromkeys((*MESSAGE_EVENTS, *EMULATED_EVENTS, "vtd_dmar_fault"))
_LINE: Final = re.compile(
    rf"^(?P<time>\S*) (?P<event>{'|'.join(_EVENTS)}) +(?P<text>.*)$", re.MULTILINE
)
_COMPLAINT: Final = re.compile(r"^(?P<time>\d{4}-\S+Z)? ?.+$", re.MULTILINE)
_ACCESS: Final = "memory_region_ops_write"
_ENDS_NOTHING: Final = re.compile(r"name '(?:vfio-user:.*|vtd-ir|hpet)'$")
"""A message that reaches a doorbell page, or the interrupt remapping, is logged as a write too. A
write to a timer may be logged at any time: QEMU serves it without its lock."""
_NAME: Final = re.compile(r"\((?P<name>[^),]*)")
_BLOCKED: Final = re.compile(
    r"sid (?P<requester>0x[0-9a-f]+) fault \d+ addr (?P<address>0x[0-9a-f]+) write 1"
)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message on its way."""

    requester: RequesterId
    message: Message


class SenderWatch:
    """Follows what is sent for a machine's functions. Implements ``virte_function.Senders``.

    What a line makes QEMU send is sent at once, if at all: the next line ends it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trace: LogTail | None = None
        self._errors: LogTail | None = None
        self._plugged: dict[str, tuple[RequesterId, ConfigSpace]] = {}
        """The functions of ours, by QEMU's names of them."""
        self._served: dict[str, ServedSender] = {}
        """Those that are followed."""
        self._emulated: dict[RequesterId, EmulatedSender] = {}
        self.functions: set[int] = set()
        """Requester ids whose messages are all told."""
        self._next: list[_Sent] = []
        """What QEMU sends because of the last line, and has not sent yet."""

    def add(
        self, socket_path: str, requester: RequesterId, config: ConfigSpace, *, shared: bool
    ) -> None:
        """Follow a function, that is about to be plugged in.

        :param requester: the source id of its messages.
        :param config: its config space.
        :param shared: functions of others have the same source id.
        """
        with self._lock:
            name = f"vfio-user:{socket_path}"
            self._plugged[name] = requester, config
            if self.followed:
                self._served[name] = ServedSender(requester, config)
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

    def follow(self, trace: LogTail, errors: LogTail) -> None:
        """Begin with the functions as they are now.

        :param trace: ``MESSAGE_EVENTS`` and ``EMULATED_EVENTS``.
        :param errors: QEMU's complaints.
        """
        with self._lock:
            self._trace, self._errors = trace, errors
            for name, (requester, config) in self._plugged.items():
                self._served[name] = ServedSender(requester, config)

    @property
    def followed(self) -> bool:
        """Whether there is a log to read."""
        return self._trace is not None

    # For the function of the call.

    @property
    def known(self) -> Collection[int]:
        """The requester ids that :meth:`sender` may return."""
        with self._lock:
            return {*(plugged.requester for plugged in self._served.values()), *self._emulated}

    def sender(self, message: Message) -> RequesterId | None:
        """Return who has sent the message that has just arrived, None: nobody who is followed."""
        with self._lock:
            self._follow()
            while self._next:
                sent = self._next.pop(0)
                if sent.message == message:
                    return sent.requester
            return None

    def _follow(self) -> None:
        assert self._trace is not None
        assert self._errors is not None
        complaints = list(_COMPLAINT.finditer(self._errors.read()))
        undated = not all(complaint["time"] for complaint in complaints)
        for line in heapq.merge(_LINE.finditer(self._trace.read()), complaints, key=_time):
            if undated or line.re is _COMPLAINT:
                for sender in self._emulated.values():
                    sender.doubt()
            if line.re is _LINE:
                self._note(line["event"], line["text"])

    def _note(self, event: str, text: str) -> None:
        if event == "vtd_dmar_fault":
            self._note_blocked(text)
        elif event != _ACCESS or not _ENDS_NOTHING.search(text):
            self._next = list(self._sent(event, text))

    def _sent(self, event: str, text: str) -> Iterator[_Sent]:
        if event == _ACCESS:
            for served in self._served.values():
                served.table_written(text)
        elif event in MESSAGE_EVENTS:
            if (name := _NAME.search(text)) and (own := self._served.get(name["name"])):
                for message in own.take(event, text):
                    yield _Sent(own.requester, message)
            return
        for sender in self._emulated.values():
            for message in sender.take(event, text):
                yield _Sent(sender.requester, message)

    def _note_blocked(self, text: str) -> None:
        if blocked := _BLOCKED.match(text):
            requester, address = (int(blocked[group], 16) for group in ("requester", "address"))
            for sent in self._next:
                if (sent.requester, sent.message.address) == (requester, address):
                    self._next.remove(sent)
                    return


def _time(line: re.Match[str]) -> str:
    return line["time"] or ""
