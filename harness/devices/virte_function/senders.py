"""What the function of the call is told of messages that come without their sender."""

from __future__ import annotations

from collections.abc import Container
from typing import Protocol

from harness.spec.msi import Message
from harness.spec.pci import RequesterId


class Senders(Protocol):
    """Knows who sends some of a machine's messages."""

    @property
    def known(self) -> Container[int]:
        """The requester ids that :meth:`sender` may return."""

    @property
    def functions(self) -> Container[int]:
        """The requester ids whose messages are all told: any other message is none of theirs."""

    def sender(self, message: Message) -> RequesterId | None:
        """Return who has sent the message that has just arrived, None: nobody who is known."""
