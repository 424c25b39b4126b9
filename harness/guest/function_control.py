# Ref: docs/guest-module.md, "Operations"; guests/control/module.c implements them.
"""The operations of imsctl on one function of ours, of those that are bound in the guest."""

from __future__ import annotations

import errno
from typing import Final

from harness.errors import GuestCommandError
from harness.guest.control import ANSWER_SECONDS, LONG_SECONDS, Control, ControlError
from harness.guest.facts import (
    Allocation,
    Completion,
    Function,
    Held,
    Interrupt,
    JsonObject,
    MoveCompletion,
    StoredMessage,
    build,
    build_all,
)
from harness.spec.interrupt import Store
from harness.spec.msi import Message

ALL: Final = 0
"""As a count: every interrupt of the store that is allocated."""

ANY: Final = None
"""As an index: the next that is free."""


class FunctionControl:
    """The operations on one function. Errors are those of :class:`Control`.

    Ranges are ``index`` and ``count``. An operation on a range stops at the first error and leaves
    what was done (``ControlError.done``); an allocation of IMS entries does all or none.

    :param number: what the guest's module calls the function while it is bound; drivers get the
        lowest number that is free.
    """

    def __init__(self, control: Control, number: int = 0):
        self.guest = control
        """The operations on the guest as a whole."""
        self.number = number

    def call(
        self, operation: str, *, seconds: float = ANSWER_SECONDS, **words: object
    ) -> JsonObject:
        """Run an operation on the function by its name, as :meth:`Control.call`."""
        return self.guest.call(operation, seconds=seconds, function=self.number or None, **words)

    def facts(self, *, wait_ms: int = 0) -> Function:
        """Return the facts of the function. ENODEV: none is bound, not even after waiting."""
        return build(Function, self.call("function", wait=wait_ms or None))

    def alloc(
        self,
        store: Store,
        count: int = 1,
        *,
        index: int | None = 0,
        least: int | None = None,
        pasid: int | None = None,
        facts: bool = True,
    ) -> Allocation:
        """Allocate interrupts; with ``least``, be content with fewer MSI messages or MSI-X vectors.

        ``facts=False`` leaves the interrupts out of the answer.

        :param pasid: bind IMS entries to it. EOPNOTSUPP: not over the vIRTE call.
        """
        place = "any" if index is ANY else index
        words = {
            "count": count,
            "index": place,
            "least": least,
            "pasid": pasid,
            "facts": int(facts),
        }
        return build(
            Allocation, self.call("alloc", seconds=LONG_SECONDS, store=_name(store), **words)
        )

    def request(self, store: Store, index: int = 0, count: int = 1) -> tuple[Interrupt, ...]:
        """Install the handler. ENOSPC: the CPUs have no vector left."""
        return self._range("request", store, index, count)

    def release(self, store: Store, index: int = 0, count: int = 1) -> tuple[Interrupt, ...]:
        """Remove the handler."""
        return self._range("release", store, index, count)

    def free(self, store: Store, index: int = 0, count: int = 1) -> int:
        """Free interrupts, and return how many. EBUSY: one has a handler, and none was freed."""
        reply = self.call(
            "free", seconds=LONG_SECONDS, store=_name(store), index=index, count=count
        )
        return int(reply["done"])

    def mask(self, store: Store, index: int = 0, count: int = 1) -> tuple[Interrupt, ...]:
        """Mask at the chip, at once."""
        return self._range("mask", store, index, count)

    def unmask(self, store: Store, index: int = 0, count: int = 1) -> tuple[Interrupt, ...]:
        """Unmask at the chip."""
        return self._range("unmask", store, index, count)

    def move(self, store: Store, cpu: int, index: int = 0, count: int = 1) -> tuple[Interrupt, ...]:
        """Set the affinity to one CPU.

        Without remapping the kernel may put the move off until the next interrupt: then ``cpu`` in
        the answer is still the old one.
        """
        return self._range("move", store, index, count, cpu=cpu)

    def cycle(self, store: Store, rounds: int, index: int = 0, count: int = 1) -> int:
        """Allocate, request, release and free a range ``rounds`` times; return the whole rounds."""
        reply = self.call(
            "cycle",
            seconds=LONG_SECONDS,
            store=_name(store),
            index=index,
            count=count,
            rounds=rounds,
        )
        return int(reply["done"])

    def fire(self, store: Store, index: int = 0, *, timeout_ms: int = 1000) -> Completion:
        """Raise an interrupt by a work descriptor and wait for its completion record.

        How the device ended it is a result, not an error. ETIMEDOUT: no record came.
        """
        reply = self.call("fire", store=_name(store), index=index, timeout=timeout_ms)
        return build(Completion, reply)

    def move_fire(self, store: Store, cpu: int, index: int = 0) -> MoveCompletion:
        """Move an interrupt to a CPU, and raise it in the same step, as :meth:`fire` does.

        As after :meth:`move`, ``cpu`` in the answer may still be the old one.
        """
        reply = self.call("move_fire", store=_name(store), index=index, cpu=cpu)
        return build(MoveCompletion, reply)

    def interrupts(self, store: Store, index: int = 0, count: int = ALL) -> tuple[Interrupt, ...]:
        """Return the allocated interrupts of a range."""
        return self._range("list", store, index, count)

    def interrupt(self, store: Store, index: int = 0) -> Interrupt:
        """Return one allocated interrupt.

        :raises GuestCommandError: none is allocated there.
        """
        found = self.interrupts(store, index, 1)
        if not found:
            raise GuestCommandError(f"no {store.name} interrupt {index} is allocated in the guest")
        return found[0]

    def stored(self, store: Store, index: int = 0, count: int = 1) -> tuple[StoredMessage, ...]:
        """Read messages back from the store."""
        reply = self.call(
            "stored", seconds=LONG_SECONDS, store=_name(store), index=index, count=count
        )
        return build_all(StoredMessage, reply, "messages")

    def write(self, store: Store, index: int, message: Message) -> None:
        """Put a message into the store, whatever the kernel composed for the interrupt.

        The kernel goes on with its own as if nothing had been. EINVAL: an MSI message but the
        first, which stands for the others.
        """
        words = {"index": index, "address": message.address, "data": message.data}
        self.call("write", store=_name(store), **words)

    def hold(self, count: int = ALL) -> Held:
        """Take remapping entries; without a count until the kernel refuses, which is no error."""
        try:
            return build(Held, self.call("hold", seconds=LONG_SECONDS, count=count))
        except ControlError as error:
            if count != ALL or not error.done:
                raise
            return build(Held, {**error.reply, "refusal": error.errno})

    def drop(self) -> Held:
        """Give the entries of :meth:`hold` back."""
        return build(Held, self.call("drop", seconds=LONG_SECONDS))

    def reset(self) -> None:
        """Free everything in the guest, and reset the function's own state."""
        self.call("reset", seconds=LONG_SECONDS)

    def _range(
        self, operation: str, store: Store, index: int, count: int, **words: object
    ) -> tuple[Interrupt, ...]:
        reply = self.call(
            operation,
            seconds=LONG_SECONDS,
            store=_name(store),
            index=index,
            count=count,
            **words,
        )
        return build_all(Interrupt, reply, "interrupts")


def find_function(control: Control, slot: str, *, among: int, wait_ms: int = 0) -> FunctionControl:
    """Return the operations of the function at a PCI address, ``0000:01:00.0``.

    :param among: how many functions can be bound.
    :param wait_ms: how long to wait for its driver, which will get the lowest number that is free.
    :raises GuestCommandError: its driver is not bound.
    """
    free = []
    for number in range(among):
        candidate = FunctionControl(control, number)
        if (facts := _facts(candidate)) is None:
            free.append(candidate)
        elif facts.slot == slot:
            return candidate
    if free and (facts := _facts(free[0], wait_ms)) is not None and facts.slot == slot:
        return free[0]
    raise GuestCommandError(f"no driver of ours is bound to {slot}")


def _facts(function: FunctionControl, wait_ms: int = 0) -> Function | None:
    try:
        return function.facts(wait_ms=wait_ms)
    except ControlError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def _name(store: Store) -> str:
    return store.name.lower()
