# Ref: docs/guest-module.md, "Operations"; guests/control/module.c and system.c implement them.
"""Client of imsctl, the control tool in the guest: one line of words out, one JSON object back.

An operation that fails raises :class:`ControlError` with the errno that the guest's kernel gave.
"""

from __future__ import annotations

import errno as errno_module
import json
import re
from typing import Any, Final, Protocol

from harness.errors import GuestCommandError, ProtocolError
from harness.guest.facts import (
    Allocation,
    Completion,
    Cpus,
    Function,
    Held,
    Interrupt,
    JsonObject,
    MachineInterrupt,
    Ping,
    StoredMessage,
    build,
    build_all,
)
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store

ALL: Final = 0
"""As a count: every interrupt of the store that is allocated."""

ANY: Final = None
"""As an index: the next that is free."""

_SECRET: Final = re.compile(r"\b(host_key|seed)=\S+")
"""Words of a request that no message repeats."""

ANSWER_SECONDS: Final = 20.0
LONG_SECONDS: Final = 120.0
"""Bound of operations that work through thousands of interrupts in one request."""


class LineExchange(Protocol):
    """What carries requests to ``imsctl serve``: an SSH channel, a virtio-serial port, a pipe."""

    def ask(self, line: str, deadline: Deadline | None = None) -> str:
        """Send a line and return the line that comes back, both without their ends."""


class ControlError(GuestCommandError):
    """An operation failed in the guest."""

    def __init__(self, request: str, reply: JsonObject):
        self.request = request
        """The request's words, without secrets."""
        self.reply = reply
        """The whole answer: what was done before the error is in it."""
        name = reply["errno"]
        self.errno: int = name if isinstance(name, int) else getattr(errno_module, name, -1)
        """The kernel's errno."""
        self.done: int | None = reply.get("done")
        """How many of a range were done before the error."""
        done = "" if self.done is None else f" (after {self.done})"
        super().__init__(f"imsctl {request}: {name}{done}: {reply.get('error', '')}")


class Control:
    """The operations of imsctl.

    Ranges are ``index`` and ``count``. An operation on a range stops at the first error and leaves
    what was done (``ControlError.done``); an allocation of IMS entries does all or none.

    :raises ControlError: the operation failed in the guest; true of every method.
    :raises ProtocolError: the answer is not one, or is that of another request; likewise.
    """

    def __init__(self, exchange: LineExchange):
        self._exchange = exchange
        self._requests = 0

    def call(
        self, operation: str, *, seconds: float = ANSWER_SECONDS, **words: object
    ) -> JsonObject:
        """Run an operation by its name and return the answer; words that are None are left out."""
        self._requests += 1
        tag = str(self._requests)
        given = {name: value for name, value in words.items() if value is not None}
        whole = " ".join([operation, *(f"{name}={value}" for name, value in given.items())])
        request = _SECRET.sub(r"\1=...", whole)
        deadline = Deadline(seconds, f"imsctl {request}")
        line = self._exchange.ask(f"{whole} tag={tag}", deadline)
        reply = _parse(line, request)
        if reply.get("tag") != tag:
            # An answer to a request that was given up: every later one would be off by one.
            raise ProtocolError(f"imsctl {request}: the answer to another request", evidence=line)
        if reply["errno"] != 0:
            raise ControlError(request, reply)
        return reply

    def ping(self) -> Ping:
        """Ask for a sign of life."""
        return build(Ping, self.call("ping"))

    def function(self, *, wait_ms: int = 0) -> Function:
        """Return the facts of the bound function. ENODEV: none is bound, not even after waiting."""
        return build(Function, self.call("function", wait=wait_ms or None))

    def alloc(
        self,
        store: Store,
        count: int = 1,
        *,
        index: int | None = 0,
        least: int | None = None,
        facts: bool = True,
    ) -> Allocation:
        """Allocate interrupts; with ``least``, be content with fewer MSI messages or MSI-X vectors.

        ``facts=False`` leaves the interrupts out of the answer.
        """
        place = "any" if index is ANY else index
        words = {"count": count, "index": place, "least": least, "facts": int(facts)}
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

    def irqs(self) -> tuple[MachineInterrupt, ...]:
        """Return every interrupt of the machine. None may come or go meanwhile."""
        return build_all(MachineInterrupt, self.call("irqs", seconds=LONG_SECONDS), "irqs")

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

    def cpus(self) -> Cpus:
        """Return the CPUs and their APIC ids."""
        return build(Cpus, self.call("cpus"))

    def set_cpu(self, cpu: int, *, online: bool) -> None:
        """Take a CPU on or off. EBUSY: it must stay."""
        self.call("cpu", id=cpu, state="online" if online else "offline")

    def bind(self, slot: str | None = None) -> None:
        """Bind the driver to a function, the first if not named."""
        self.call("bind", slot=slot)

    def unbind(self, slot: str | None = None) -> None:
        """Unbind the driver: everything the function has is freed."""
        self.call("unbind", slot=slot)

    # Of the guest itself.

    def make_fresh(self, now: float, seed: bytes) -> None:
        """Give a guest that continues from a saved state a life of its own.

        :param now: seconds since 1970, what its clock is set to.
        :param seed: 32 random bytes; its random numbers depend on them from here on.
        """
        seconds, fraction = divmod(now, 1)
        self.call("fresh", time=int(seconds), nanoseconds=int(fraction * 1e9), seed=seed.hex())

    def start_ssh(self, host_key: str, client_key: str) -> None:
        """Start the SSH server; when this returns, it listens. The keys are words of imsctl."""
        self.call("ssh", host_key=host_key, client_key=client_key)

    def kernel_log(self, *, clear: bool = False, seconds: float = ANSWER_SECONDS) -> str:
        """Return what the kernel has logged; with ``clear``, it is not returned again."""
        return str(self.call("log", seconds=seconds, clear=int(clear) or None)["text"])

    def read_file(self, path: str, *, seconds: float = ANSWER_SECONDS) -> str:
        """Return a text file of the guest's, of ``/proc`` or ``/sys`` above all."""
        return str(self.call("read", seconds=seconds, path=path)["text"])

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


def _name(store: Store) -> str:
    return store.name.lower()


def _parse(line: str, request: str) -> dict[str, Any]:
    try:
        reply = json.loads(line)
    except ValueError as error:
        raise ProtocolError(f"imsctl {request}: not JSON: {error}", evidence=line) from error
    if not isinstance(reply, dict) or "errno" not in reply:
        raise ProtocolError(f"imsctl {request}: an answer without errno", evidence=line)
    return reply
