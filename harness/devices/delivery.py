"""How a raised interrupt leaves the function: through masks, wires and the check of its origin.

One lock makes every step of a function whole: an access of the guest, a raise, a reset, a change of
the wires, a look at the masks of a mapped array. What a step decides it also carries out before it
lets the lock go: the message is with the client's connection, or its eventfd is signalled. Hence

- no message leaves on a mask that has been changed since: when the write of a mask bit is answered,
  whatever was decided before it stands in front of that answer, and nothing is sent behind it;
- where the guest's writes are no accesses (a mapped array), the same holds when any access to the
  control registers is answered that follows the write;
- an event that is pending has its bit set, and a bit that is set has its event.

Under the lock nobody waits: the client's connection takes messages without blocking, and its
verdict about one comes later, from its own thread.
"""

from __future__ import annotations

import errno
import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from harness.devices.ledger import Event, Fate, Ledger
from harness.hypervisor.host import Fault as HostFault
from harness.hypervisor.source_translation import SourceFault
from harness.hypervisor.store_trap import StoreTrap
from harness.hypervisor.trap_path import TrapPath
from harness.pci.config_space import ConfigSpace
from harness.pci.store import InterruptStore
from harness.remapping.translate import Fault
from harness.spec.interrupt import Store
from harness.spec.msi import Message
from harness.spec.vfio import IrqIndexNumber
from harness.vfio_user.device import Bus, Verdict

WIRE: Final = {Store.MSI: IrqIndexNumber.MSI, Store.MSIX: IrqIndexNumber.MSIX}
"""Stores whose interrupts a client can wire to eventfds. There is no such index for IMS."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """A message to put on the bus, and who is to be told when the client has taken it."""

    message: Message
    landed: Callable[[], None]


Routed = Message | Awaited | Fault | HostFault | SourceFault | None
"""What becomes of a message: the one to put on the bus, the fault that it ends in, or None: it is
taken, and whoever took it delivers it."""


class MessageGate(Protocol):
    """What stands between the function and the bus, for messages that it sends itself.

    A message over vfio-user carries no requester id, so that the client cannot check where it comes
    from. Whoever plugs the function in does that here.
    """

    def route(self, store: Store, index: int, message: Message) -> Routed:
        """Decide about a message.

        Called on any thread, the server's among them, and in the middle of a step of the function:
        it must not wait for the client or the guest, nor call the function.
        """


class OpenGate:
    """A gate that lets everything through: for a function with no remapping to check against."""

    def route(self, store: Store, index: int, message: Message) -> Message | Fault:
        """Return the message."""
        return message


class Delivery:
    """Takes events from the ledger through the stores and out to the bus.

    :param lock: the function's lock, which whoever changes the stores holds as well.
    :param ended: called when an event ends without an answer, maybe in the middle of a step: it may
        raise interrupts, and must not wait.
    """

    def __init__(
        self,
        *,
        stores: Mapping[Store, InterruptStore],
        config: ConfigSpace,
        ledger: Ledger,
        gate: MessageGate,
        lock: threading.RLock,
        ended: Callable[[Event], None],
    ):
        self.bus: Bus | None = None
        """The client to send to; None while there is none."""
        self.gate = gate
        self.trap_path: TrapPath | None = None
        """Where the host interrupts of MSI and MSI-X come from; None: there are always some."""
        self.store_trap: StoreTrap | None = None
        """Who writes the hardware's stores for the guest; None: they are what the guest writes."""
        self._stores = stores
        self._config = config
        self._ledger = ledger
        self._lock = lock
        self._ended = ended

    def wired(self, store: Store, index: int) -> bool:
        """Whether the client has given an eventfd for this interrupt."""
        bus = self.bus
        return bus is not None and store in WIRE and bus.irq_is_wired(WIRE[store], index)

    def send(self, event: Event) -> Verdict | None:
        """Decide about an open event and send it; return the client's verdict to come, if any."""
        with self._lock:
            # A reset may have dropped it since it was opened.
            return self._decide(event) if event.fate is Fate.RAISED else None

    def release(self, store: Store) -> None:
        """Send what is pending in a store and no longer masked; forget it when the store is off."""
        with self._lock:
            state = self._stores.get(store)
            for index in sorted(state.pending) if state and state.pending else ():
                # An event that ended may have led to others: look at each as it is now.
                if event := self._ledger.pending(store, index):
                    self._decide(event)

    def abandon(self, event: Event, reason: str) -> None:
        """Forget an event that was opened and will not be sent."""
        with self._lock:
            if event.fate is Fate.RAISED:
                self._end(event, Fate.DROPPED, reason)

    def drop_all(self, reason: str) -> None:
        """Forget every event that has not ended, and what is pending with them."""
        with self._lock:
            for state in self._stores.values():
                for index in tuple(state.pending):
                    state.set_pending(index, False)
            for event in self._ledger.drop_all(reason):
                self._ended(event)

    def _decide(self, event: Event) -> Verdict | None:
        """Decide about an event that is open or pending, and do it. The caller holds the lock."""
        state, index = self._stores[event.store], event.index
        wired = self.wired(event.store, index)
        if not state.enabled(index):
            if event.fate is Fate.PENDING:
                self._end(event, Fate.DROPPED, "its store was disabled")
            else:
                self._end(event, Fate.DISABLED, f"{event.interrupt} is not enabled")
        elif self.trap_path and (refusal := self.trap_path.missing(event.store, index)):
            self._end(event, Fate.BLOCKED, str(refusal))
        elif state.masked(index, wired=wired):
            self._hold(event, state)
        elif self.bus is None:
            self._end(event, Fate.BLOCKED, "no client is attached")
        elif not self._config.bus_master:
            self._end(event, Fate.BLOCKED, "bus mastering is off")
        elif self.store_trap:
            return self._send_message(event, self.bus, self.store_trap.hardware(event.interrupt))
        elif not wired:
            return self._send_message(event, self.bus, state.message(index))
        elif self.bus.trigger_irq(WIRE[event.store], index):
            self._leave(event)
        else:
            return self._decide(event)  # the client has just taken its eventfd back
        return None

    def _hold(self, event: Event, state: InterruptStore) -> None:
        first = self._ledger.pending(event.store, event.index)
        if first is None:
            state.set_pending(event.index, True)
            self._ledger.settle(event, Fate.PENDING)
        elif first is not event:
            self._end(event, Fate.MERGED, f"into event {first.sequence}")

    def _send_message(self, event: Event, bus: Bus, message: Message) -> Verdict | None:
        if message.address == 0:
            self._end(event, Fate.BLOCKED, "the store holds the null message")
            return None
        routed = self.gate.route(event.store, event.index, message)
        if routed is None:
            self._leave(event)
            return None
        sent = routed.message if isinstance(routed, Awaited) else routed
        if not isinstance(sent, Message):
            self._end(event, Fate.BLOCKED, str(sent))
            return None
        self._leave(event)
        verdict = bus.send_message(sent.address & ~3, sent.data)
        verdict.add_done_callback(functools.partial(self._judge, event))
        if isinstance(routed, Awaited):
            landed = routed.landed
            verdict.add_done_callback(lambda _: landed())
        return verdict

    def _leave(self, event: Event) -> None:
        self._no_longer_pending(event)
        self._ledger.settle(event, Fate.SENT)

    def _end(self, event: Event, fate: Fate, reason: str) -> None:
        self._no_longer_pending(event)
        self._ledger.settle(event, fate, reason)
        self._ended(event)

    def _no_longer_pending(self, event: Event) -> None:
        if event.fate is Fate.PENDING:
            self._stores[event.store].set_pending(event.index, False)

    def _judge(self, event: Event, verdict: Verdict) -> None:
        # On the client's thread, or at once when there is no client any more.
        if (error := verdict.exception()) is None:
            return
        number = error.errno if isinstance(error, OSError) else None
        why = errno.errorcode.get(number or 0, "no errno")
        reason = f"the client refused the message with {why}: {error}"
        if self._ledger.settle(event, Fate.BLOCKED, reason):
            self._ended(event)
