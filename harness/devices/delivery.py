"""How a raised interrupt leaves the function: through masks, wires and the check of its origin."""

from __future__ import annotations

import errno
import functools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Protocol

from harness.devices.ledger import Event, Ledger, Outcome
from harness.pci.config_space import ConfigSpace
from harness.pci.store import InterruptStore
from harness.remapping.translate import Fault
from harness.spec.interrupt import Store
from harness.spec.msi import Message
from harness.spec.vfio import IrqIndexNumber
from harness.vfio_user.device import Bus

WIRE: Final = {Store.MSI: IrqIndexNumber.MSI, Store.MSIX: IrqIndexNumber.MSIX}
"""Stores whose interrupts a client can wire to eventfds. There is no such index for IMS."""


class MessageGate(Protocol):
    """What stands between the function and the bus, for messages that it sends itself.

    A message over vfio-user carries no requester id, so that the client cannot check where it comes
    from. Whoever plugs the function in does that here.
    """

    def route(self, store: Store, index: int, message: Message) -> Message | Fault:
        """Return the message to put on the bus, or the fault that this one ends in.

        Called on any thread, the server's among them: it must not wait for the client or the guest.
        """


class OpenGate:
    """A gate that lets everything through: for a function with no remapping to check against."""

    def route(self, store: Store, index: int, message: Message) -> Message | Fault:
        """Return the message."""
        return message


@dataclass(frozen=True, slots=True)
class _Route:
    # How one event leaves: by the client's eventfd, or as a message.
    bus: Bus
    message: tuple[int, int] | None


class Delivery:
    """Takes events from the ledger through the stores and out to the bus.

    Decisions are made under ``lock``, which the owner of the stores shares; nothing is sent, and
    nobody is called, while it is held.

    :param ended: called when an event ends without an answer.
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
        self._stores = stores
        self._config = config
        self._ledger = ledger
        self._gate = gate
        self._lock = lock
        self._ended = ended

    def send(self, event: Event) -> Future[None] | None:
        """Decide about an open event and send it; return the client's verdict to come, if any."""
        with self._lock:
            route = self._decide(event)
        if route is None:
            if event.outcome is not Outcome.PENDING:
                self._ended(event)
            return None
        return self._go(event, route)

    def wired(self, store: Store, index: int) -> bool:
        """Whether the client has given an eventfd for this interrupt."""
        bus = self.bus
        return bus is not None and store in WIRE and bus.irq_is_wired(WIRE[store], index)

    def _decide(self, event: Event) -> _Route | None:
        store = self._stores[event.store]
        wired = self.wired(event.store, event.index)
        if not store.enabled(event.index):
            self._ledger.settle(event, Outcome.DISABLED, f"{event.interrupt} is not enabled")
        elif store.masked(event.index, wired=wired):
            if first := self._ledger.pending(event.store, event.index):
                self._ledger.settle(event, Outcome.MERGED, f"into event {first.sequence}")
            else:
                store.pending.add(event.index)
                self._ledger.settle(event, Outcome.PENDING)
        else:
            return self._route(event, wired=wired)
        return None

    def _route(self, event: Event, *, wired: bool) -> _Route | None:
        if self.bus is None:
            self._ledger.settle(event, Outcome.BLOCKED, "no client is attached")
        elif not self._config.bus_master:
            self._ledger.settle(event, Outcome.BLOCKED, "bus mastering is off")
        elif wired:
            return _Route(self.bus, None)
        else:
            return _Route(self.bus, self._stores[event.store].message(event.index))
        return None

    def _go(self, event: Event, route: _Route) -> Future[None] | None:
        if route.message is None:
            # The guest may read the event slot before trigger_irq has returned.
            if self._ledger.settle(event, Outcome.SENT) and not route.bus.trigger_irq(
                WIRE[Store(event.store)], event.index
            ):
                self._refuse(event, "the client has taken its eventfd back")
            return None
        address, data = route.message
        if address == 0:
            self._refuse(event, "the store holds the null message")
            return None
        message = self._gate.route(event.store, event.index, Message(address, data))
        if isinstance(message, Fault):
            self._refuse(event, str(message))
            return None
        if not self._ledger.settle(event, Outcome.SENT):
            return None
        verdict = route.bus.send_message(message.address & ~3, message.data)
        verdict.add_done_callback(functools.partial(self._judge, event))
        return verdict

    def _judge(self, event: Event, verdict: Future[None]) -> None:
        if verdict.cancelled():
            self._refuse(event, "the client went away")
        elif error := verdict.exception():
            number = error.errno if isinstance(error, OSError) else None
            why = errno.errorcode.get(number or 0, "no errno")
            self._refuse(event, f"the client refused the message with {why}: {error}")

    def _refuse(self, event: Event, reason: str) -> None:
        if self._ledger.settle(event, Outcome.BLOCKED, reason):
            self._ended(event)

    def release(self, store: Store) -> None:
        """Send what is pending in a store and no longer masked; forget it when the store is off."""
        if store not in self._stores:
            return
        state = self._stores[store]
        if not state.pending:
            return
        ready: list[tuple[Event, _Route | None]] = []
        with self._lock:
            for index in sorted(state.pending):
                event = self._ledger.pending(store, index)
                wired = self.wired(store, index)
                if not state.enabled(index):
                    state.pending.discard(index)
                    if event:
                        self._ledger.drop_event(event, "its store was disabled")
                        ready.append((event, None))
                elif not state.masked(index, wired=wired):
                    state.pending.discard(index)
                    if event:
                        ready.append((event, self._route(event, wired=wired)))
        for event, route in ready:
            if route:
                self._go(event, route)
            else:
                self._ended(event)
