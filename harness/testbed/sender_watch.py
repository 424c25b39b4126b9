# Ref: QEMU hw/vfio/pci.c (vfio_msi_interrupt, vfio_msix_vector_do_use), hw/pci/msix.c (msix_notify,
#      msix_handle_mask_update), hw/vfio-user/pci.c (the name of a device); hw/virtio/virtio.c
#      (virtio_notify, virtio_notify_config, virtio_set_status), hw/nvme/ctrl.c (nvme_irq_assert)
"""Who sends the MSI and MSI-X messages that reach a doorbell page, as QEMU's log tells it.

QEMU sends these for a function of ours, and hands them to the function of the call as plain writes.
But it logs each one just before: whose it is, the vector, address and data. A doorbell write is not
posted (``x-no-posted-writes``), so that QEMU waits for its end, with the lock held under which all
of this happens: when the write is looked at, the log has its line, and none of a later message.

A vector that fires behind its mask is logged as well, and is sent when it is unmasked, with what
its entry holds by then. The log tells when that is, and not what is sent.

Of the devices that QEMU emulates itself it logs less, and of some nothing. Of a virtio device and
an NVMe controller there is a line for each message, which says who: not what is sent, nor whether
it was held back by a mask, nor when that goes. So they are told by the order of things: the line
that came last since the message before is the sender's; and a line that no message has followed
passes once, for a message of the same device with an interrupt of that queue.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from harness.errors import HarnessError
from harness.qemu.trace import TraceTail
from harness.spec.interrupt import InterruptName, Store
from harness.spec.msi import Message
from harness.spec.pci import RequesterId

_EVENT: Final = re.compile(
    r" (?P<what>vfio_msix?_\w+) +\((?P<name>[^)]*)\)"
    r"(?: vector (?P<number>\d+))?(?: 0x(?P<address>[0-9a-f]+)/0x(?P<data>[0-9a-f]+))?"
    r"| vtd_dmar_fault sid 0x(?P<blocked>[0-9a-f]+) fault \d+ addr 0x(?P<at>[0-9a-f]+) write 1"
    r"| virtio_notify vdev (?P<virtio>0x[0-9a-f]+) vq 0x(?P<queue>[0-9a-f]+)"
    r"| virtio_set_status vdev (?P<reset>0x[0-9a-f]+) val 0$"
    r"| (?P<configures>virtio_net_announce_notify|qmp_enter_set_link)\b"
    r"| pci_nvme_irq_msix .*\bvector (?P<nvme>\d+)",
    re.MULTILINE,
)
NVME: Final = "nvme"
"""QEMU's driver of an NVMe controller, and our name of the one: its lines have none."""
_VIRTIO: Final = "virtio-"
"""How the names of QEMU's virtio drivers begin."""
_CONFIGURATION: Final = -1
"""In the place of a queue: what fires is the interrupt of a changed configuration."""


class _Vector(NamedTuple):
    """A vector of a function, by QEMU's name of that; of a virtio device, one of its queues."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message on its way."""

    message: Message | None
    """As it stood in the store when the vector fired; None: it is not told."""
    unmasked: bool = False
    """It left later than that."""


class SenderWatch:
    """Follows what is sent for a machine's functions. Implements ``virte_function.Senders``.

    What it remembers is one message for each vector, so that a function passes for the sender of
    no more messages than it has fired. One that a remapping unit blocks is forgotten. One that is
    lost otherwise (bus mastering went off after it was fired) is taken for the next that arrives
    with the same pair, of a device that QEMU emulates for the next of the same interrupt.
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
        self._last: Collection[_Vector] = ()
        """What the last line has sent, if nothing was seen at a doorbell since."""
        self._indices: dict[_Vector, int] = {}
        """Which interrupt a queue was seen to send."""
        self._resets: set[str] = set()

    def add(self, socket_path: str, requester: RequesterId, *, shared: bool) -> None:
        """Follow a function, that is about to be plugged in.

        :param requester: the source id of its messages.
        :param shared: functions of others have the same.
        """
        with self._lock:
            self._names[f"vfio-user:{socket_path}"] = requester
            if not shared:
                self.functions.add(requester)

    @contextlib.contextmanager
    def plugging(self, driver: str, requester: RequesterId) -> Iterator[None]:
        """Follow a device that QEMU emulates, and that is plugged in while this is held.

        The virtual CPUs must be stopped: the lines of a virtio device bear no name but a pointer,
        and the one that is reset in this time is the new one. What QEMU does not log is not
        followed.

        :raises HarnessError: it is an NVMe controller and not the first.
        """
        if driver == NVME and self._names.get(NVME, requester) != requester:
            raise HarnessError(
                "QEMU's log does not tell two NVMe controllers apart",
                hint="plug one in for each machine with the vIRTE call",
            )
        with self._lock:
            self._follow()
            self._resets.clear()
        yield
        with self._lock:
            self._follow()
            names = {NVME} if driver == NVME else self._resets
            if driver != NVME and not driver.startswith(_VIRTIO):
                return
            if len(names) != 1:
                raise HarnessError(f"QEMU's log does not tell which {driver} is at {requester}")
            self._names[names.pop()] = requester
            self.functions.add(requester)

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
            return set(self._names.values())

    def sender(self, message: Message, interrupt: InterruptName | None) -> RequesterId | None:
        """Return who has sent the message that has just arrived, None: nobody who is followed.

        :param interrupt: the one that the message's handle is for, if it is a live one.
        """
        with self._lock:
            self._follow()
            last, self._last = self._last, ()
            for vector, sent in reversed(self._sent.items()):
                if self._is(message, interrupt, vector, sent, last):
                    del self._sent[vector]
                    return self._names[vector.name]
            # Whoever fired last has sent what is none of his own.
            for vector in last:
                if self._sent[vector].message is None:
                    del self._sent[vector]
                    return self._names[vector.name]
            return None

    def _is(
        self,
        message: Message,
        interrupt: InterruptName | None,
        vector: _Vector,
        sent: _Sent,
        last: Collection[_Vector],
    ) -> bool:
        # Whether the message that has arrived, with the handle of this interrupt, is that one.
        if sent.message:
            return sent.message == message or (
                sent.unmasked and interrupt == self._interrupt(vector, vector.number)
            )
        if interrupt is None or interrupt != self._interrupt(vector, interrupt.index):
            return False
        if vector in last:
            self._indices[vector] = interrupt.index
        return self._index(vector, interrupt.index) == interrupt.index

    def _index(self, vector: _Vector, unseen: int) -> int | None:
        # The interrupt of a queue; while none was seen, any that is none of another queue's.
        if vector.name == NVME:
            return vector.number
        others = [index for seen, index in self._indices.items() if seen.name == vector.name]
        return self._indices.get(vector, None if unseen in others else unseen)

    def _interrupt(self, vector: _Vector, index: int) -> InterruptName:
        return InterruptName(Store.MSIX, index, function=self._names[vector.name])

    def _follow(self) -> None:
        assert self._trace is not None
        if new := self._trace.read():
            for event in _EVENT.finditer(new):
                if event["blocked"]:
                    self._note_blocked(int(event["blocked"], 16), int(event["at"], 16))
                elif event["reset"]:
                    self._resets.add(event["reset"])
                    self._forget(event["reset"])
                elif event["name"] in self._names:
                    self._note(event)
                elif not event["name"]:
                    self._note_emulated(event)

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
                self._send(_Sent(message), vector)
            self._firing_masked = ""
        elif what == "vfio_msix_vector_do_use":
            vector = _Vector(name, int(event["number"]))
            if vector in self._pending:
                self._send(_Sent(self._pending.pop(vector), unmasked=True), vector)
        elif what in ("vfio_msi_disable", "vfio_msix_disable"):
            self._forget(name)

    def _note_emulated(self, event: re.Match[str]) -> None:
        if event["nvme"]:
            fired = [_Vector(NVME, int(event["nvme"]))]
        elif event["virtio"]:
            fired = [_Vector(event["virtio"], int(event["queue"], 16))]
        else:
            names = [name for name in self._names if name.startswith("0x")]
            fired = [_Vector(name, _CONFIGURATION) for name in names]
        self._send(_Sent(None), *(vector for vector in fired if vector.name in self._names))

    def _note_blocked(self, requester: int, address: int) -> None:
        for vector, sent in reversed(self._sent.items()):
            own = self._names[vector.name] == requester
            if own and (sent.message.address == address if sent.message else vector in self._last):
                del self._sent[vector]
                self._last = ()
                return

    def _send(self, sent: _Sent, *vectors: _Vector) -> None:
        self._last = vectors
        for vector in vectors:
            self._sent.pop(vector, None)  # to the end
            self._sent[vector] = sent

    def _forget(self, name: str) -> None:
        """Nothing of this device is on its way any more."""
        self._last = [vector for vector in self._last if vector.name != name]
        for vectors in (self._pending, self._sent, self._indices):
            for vector in [vector for vector in vectors if vector.name == name]:
                del vectors[vector]
