"""The host's remapping in front of a function: pairs of the call, held against who sends them.

A message to a doorbell page would reach the function of the call as a write that tells nothing of
its sender, so that the page alone would have to say whose it is: whoever knows a pair of another
function's could fire it. Here the sender is known, and it is handed to the hypervisor with the
message, as the requester id on the bus would be.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.devices.delivery import MessageGate, Routed
from harness.devices.virte_function.function import VirteFunction
from harness.spec.interrupt import Store
from harness.spec.msi import Message
from harness.spec.pci import RequesterId


class DoorbellGate:
    """Takes messages to doorbell pages; all others pass on. Implements ``devices.MessageGate``.

    :param requester_id: of the function whose messages these are.
    :param doors: the functions of the call in this machine, now and later.
    :param others: what stands before every other message.
    """

    def __init__(
        self, requester_id: RequesterId, doors: Sequence[VirteFunction], others: MessageGate
    ):
        self._requester_id = requester_id
        self._doors = doors
        self._others = others

    def route(self, store: Store, index: int, message: Message) -> Routed:
        """Return what is injected for the message, or as the gate behind this one does."""
        for door in self._doors:
            if door.has_doorbell(message.address):
                return door.translate(message, self._requester_id)
        return self._others.route(store, index, message)
