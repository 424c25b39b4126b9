# Ref: docs/guest-module.md, "Operations"; guests/control/ implements them.
"""Client of imsctl, the control tool in the guest: one line of words out, one JSON object back.

Here are the operations on the guest as a whole; those on one function of ours are in
:mod:`harness.guest.function_control`. An operation that fails raises :class:`ControlError` with the
errno that the guest's kernel gave.
"""

from __future__ import annotations

import errno as errno_module
import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from harness.errors import GuestCommandError, ProtocolError
from harness.events.stream import Event, Writer, now
from harness.guest.facts import Cpus, JsonObject, MachineInterrupt, Ping, build, build_all
from harness.guest.policy import PolicyFacts, Rule
from harness.host.deadline import Deadline

_SECRET: Final = re.compile(r"\b(host_key|seed)=\S+")
"""Words of a request that no message repeats."""

_ONLY_READ: Final = frozenset(
    ["cpus", "function", "help", "irqs", "list", "log", "ping", "policy", "read", "stored"]
)
"""Operations that change nothing in the guest that anybody would have to judge."""

SHOWN: Final = 500
"""Characters of an answer that the stream keeps."""

ANSWER_SECONDS: Final = 20.0
LONG_SECONDS: Final = 120.0
"""Bound of operations that work through thousands of interrupts in one request."""


class LineExchange(Protocol):
    """What carries requests to ``imsctl serve``: a virtio-serial port, a pipe."""

    def ask(self, line: str, deadline: Deadline, late: Callable[[str], bool]) -> str:
        """Send a line and return the line that comes back, both without their ends.

        :param late: says of a line whether it answers an earlier request, which was given up.
        """


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


@dataclass(frozen=True, slots=True)
class Asked(Event):
    """An operation that the guest was asked for."""

    request: str
    """Its words, without secrets."""

    def held(self) -> int:
        """Return the bytes that this takes."""
        return self.BYTES + len(self.request)

    def __str__(self) -> str:
        return f"-> {self.request}"


@dataclass(frozen=True, slots=True)
class Answered(Event):
    """What it answered: the operation has returned."""

    request: str
    answer: str
    """JSON; of a long answer its beginning."""

    def held(self) -> int:
        """Return the bytes that this takes."""
        return self.BYTES + len(self.request) + len(self.answer)

    def __str__(self) -> str:
        return f"<- {self.request}: {self.answer}"


class Control:
    """The operations of imsctl on the guest.

    :param writer: writes requests and answers into the stream.
    :raises ControlError: the operation failed in the guest; true of every method.
    :raises ProtocolError: the answer is not one, or is that of another request; likewise.
    """

    def __init__(self, exchange: LineExchange, writer: Writer | None = None):
        self.answered: Callable[[], None] = lambda: None
        """Called when an operation that may have effects has returned. Whoever looks at them sets
        it."""
        self._exchange = exchange
        self._writer = writer or Writer("control")
        self._tags = map(str, itertools.count(1))
        self._given_up: set[str] = set()
        """Tags of requests without an answer: it may still come, and then it is dropped."""

    def call(
        self, operation: str, *, seconds: float = ANSWER_SECONDS, **words: object
    ) -> JsonObject:
        """Run an operation by its name and return the answer; words that are None are left out."""
        tag = next(self._tags)
        given = {name: value for name, value in words.items() if value is not None}
        whole = " ".join([operation, *(f"{name}={value}" for name, value in given.items())])
        request = _SECRET.sub(r"\1=...", whole)
        deadline = Deadline(seconds, f"imsctl {request}")
        writer = self._writer
        writer.stream.write(Asked(now(), writer.source, request))
        try:
            line = self._exchange.ask(f"{whole} tag={tag}", deadline, self._is_late)
            writer.stream.write(Answered(now(), writer.source, request, line[:SHOWN]))
            reply = _parse(line, request)
            if reply.get("tag") != tag:
                raise ProtocolError(f"imsctl {request}: no such request is open", evidence=line)
        except BaseException:
            self._given_up.add(tag)
            raise
        if operation not in _ONLY_READ:
            self.answered()
        if reply["errno"] != 0:
            raise ControlError(request, reply)
        return reply

    def _is_late(self, line: str) -> bool:
        if not self._given_up:
            return False
        try:
            tag = _parse(line, "").get("tag")
        except ProtocolError:  # whoever waits says so
            return False
        if tag not in self._given_up:
            return False
        self._given_up.remove(tag)
        return True

    def ping(self) -> Ping:
        """Ask for a sign of life."""
        return build(Ping, self.call("ping"))

    def irqs(self) -> tuple[MachineInterrupt, ...]:
        """Return every interrupt of the machine. None may come or go meanwhile."""
        return build_all(MachineInterrupt, self.call("irqs", seconds=LONG_SECONDS), "irqs")

    def policy(self) -> PolicyFacts:
        """Return what every rule says about the use of IMS here."""
        return build(PolicyFacts, self.call("policy"))

    def enforce(self, rule: Rule | None) -> None:
        """Let allocations of IMS entries obey a rule from now on; None: they are all allowed.

        What a rule refuses fails with EPERM.
        """
        self.call("policy", enforce=rule or "none")

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

    def read_config(self, slot: str, offset: int, size: int) -> int:
        """Return a register of a function's config space."""
        return int(self.call("config", slot=slot, offset=offset, size=size)["value"])

    def write_config(self, slot: str, offset: int, size: int, value: int) -> None:
        """Write a register of a function's config space, past its driver."""
        self.call("config", slot=slot, offset=offset, size=size, value=value)

    # Of the guest itself.

    def make_fresh(self, now: float, seed: bytes, watchdogs: Mapping[str, int]) -> None:
        """Give a guest that continues from a saved state a life of its own.

        :param now: seconds since 1970, what its clock is set to.
        :param seed: 32 random bytes; its random numbers depend on them from here on.
        :param watchdogs: seconds by :attr:`~harness.guest.watchdogs.Watchdog.word`; those that are
            not named stay as they are. To set one starts it again on each CPU: milliseconds.
        """
        seconds, fraction = divmod(now, 1)
        self.call(
            "fresh",
            time=int(seconds),
            nanoseconds=int(fraction * 1e9),
            seed=seed.hex(),
            **watchdogs,
        )

    def start_ssh(self, host_key: str, client_key: str) -> None:
        """Start the SSH server; when this returns, it listens. The keys are words of imsctl."""
        self.call("ssh", host_key=host_key, client_key=client_key)

    def kernel_log(self, *, clear: bool = False, seconds: float = ANSWER_SECONDS) -> str:
        """Return what the kernel has logged; with ``clear``, it is not returned again."""
        return str(self.call("log", seconds=seconds, clear=int(clear) or None)["text"])

    def read_file(self, path: str, *, seconds: float = ANSWER_SECONDS) -> str:
        """Return a text file of the guest's, of ``/proc`` or ``/sys`` above all."""
        return str(self.call("read", seconds=seconds, path=path)["text"])

    def kexec(self, kernel: str, image: str) -> None:
        """Start another kernel in the place of the guest's, with its command line.

        When this returns, it is loaded, and the guest that was asked is as good as gone.

        :param kernel, image: files of the guest's.
        """
        self.call("kexec", kernel=kernel, image=image)


def _parse(line: str, request: str) -> dict[str, Any]:
    try:
        reply = json.loads(line)
    except ValueError as error:
        raise ProtocolError(f"imsctl {request}: not JSON: {error}", evidence=line) from error
    if not isinstance(reply, dict) or "errno" not in reply:
        raise ProtocolError(f"imsctl {request}: an answer without errno", evidence=line)
    return reply
