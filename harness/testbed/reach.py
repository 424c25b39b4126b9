"""A running machine, reached by other processes of the same user.

    status      kernel, machine, processes, workspace, since when
    interrupts  the guest's own list, and the remapping table (IRTEs) as it stands in guest memory
    ssh         where the guest's SSH server is, the key that it takes and the one that it shows

Whoever asks is served by threads of the process that owns the machine (see
:mod:`harness.host.control_socket`); the guest is asked over an SSH connection of their own, so that
neither a test nor the harness waits for them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from harness.errors import GuestLost, HarnessError, ProtocolError
from harness.guest.control import LineExchange
from harness.guest.identity import Identity
from harness.guest.ssh import USER, ssh_session
from harness.host.control_socket import ask, reachable, sweep
from harness.host.deadline import Deadline
from harness.host.workspace import Workspace
from harness.qemu.machine import Machine
from harness.qemu.vitals import Vitals
from harness.testbed.observer import Observer

log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 30.0
"""Bound of whatever the guest is asked."""
STATUS_SECONDS: Final = 3.0


class ReachableVm(Protocol):
    """What of a :class:`harness.testbed.vm.Vm` others may ask for."""

    machine: Machine
    observer: Observer

    @property
    def workspace(self) -> Workspace:
        """Where the machine's files are."""

    def provenance(self) -> dict[str, str]:
        """Return what the machine is made of."""

    def identity(self) -> Identity:
        """Return the keys of the guest's SSH server, started if need be. On any thread."""


class TakingTurns:
    """A guest's port that threads use one after the other."""

    def __init__(self, exchange: LineExchange):
        self._exchange = exchange
        self._turn = threading.Lock()

    def ask(self, line: str, deadline: Deadline, late: Callable[[str], bool]) -> str:
        """Send a line and return the line that comes back, when it is this thread's turn.

        :raises DeadlineExpired: the turn did not come, or no answer.
        :raises HarnessError: as that of the exchange.
        """
        if not self._turn.acquire(timeout=deadline.remaining()):
            raise deadline.error()
        try:
            return self._exchange.ask(line, deadline, late)
        finally:
            self._turn.release()


@contextlib.contextmanager
def reachable_vm(vm: ReachableVm) -> Iterator[None]:
    """While held, other processes of this user can ask for the machine.

    One that cannot be reached is as good for its owner: what keeps it from that is logged.
    """
    ours = Vitals()
    service = _Service(vm, ours)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(reachable(service.operations()))
        except (HarnessError, OSError) as error:
            log.warning("this machine cannot be reached by other processes: %s", error)
        # First of all: ends what is asked of the guest just now.
        stack.callback(ours.lose, GuestLost("the machine is being ended"))
        yield


class _Service:
    def __init__(self, vm: ReachableVm, lifeline: Vitals):
        self._vm = vm
        self._lifeline = lifeline
        self._since = time.time()

    def operations(self) -> dict[str, Any]:
        return {"status": self._status, "interrupts": self._interrupts, "ssh": self._ssh}

    def _status(self) -> dict[str, object]:
        error = self._vm.machine.vitals.error
        return {
            "provenance": self._vm.provenance(),
            "pid": os.getpid(),
            "qemu_pid": self._vm.machine.pid,
            "workspace": str(self._vm.workspace.directory),
            "since": self._since,
            "lost": error.message if error else None,
        }

    def _ssh(self) -> dict[str, object]:
        self._vm.machine.vitals.check()
        host, port = self._vm.machine.ssh_address()
        identity = self._vm.identity()
        return {
            "host": host,
            "port": port,
            "user": USER,
            "key": identity.client_text,
            "host_key": identity.host_line,
        }

    def _interrupts(self) -> dict[str, object]:
        vitals = self._vm.machine.vitals
        deadline = Deadline(ANSWER_SECONDS, "the guest's list of interrupts")
        with (
            vitals.on_loss(lambda: self._lifeline.lose(vitals.wait_lost() or GuestLost("lost"))),
            ssh_session(
                self._vm.machine.ssh_address(),
                self._vm.identity(),
                self._lifeline,
                deadline=deadline,
            ) as session,
        ):
            said = session.run("imsctl irqs", deadline=deadline).stdout
        unit = self._vm.observer.unit()
        entries = {}
        if unit is not None and unit.remapping_enabled:
            entries = {
                str(index): {"value": f"{entry.value:#034x}", "text": str(entry)}
                for index, entry in self._vm.observer.table().present_entries().items()
            }
        return {"irqs": _irqs(said), "irtes": entries}


def _irqs(said: str) -> list[Any]:
    try:
        irqs = json.loads(said)["irqs"]
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"imsctl irqs: not an answer: {error}", evidence=said) from error
    return list(irqs)


@dataclass(frozen=True, slots=True)
class RunningMachine:
    """A machine that runs in some process of this user."""

    name: str
    """What it is called by, until it ends."""
    socket: Path
    status: dict[str, Any]
    """The answer to ``status``; with nothing but ``error`` in it when there was none in time."""


def running_machines() -> list[RunningMachine]:
    """Return the machines of this user. Names that killed processes left are removed.

    :raises HarnessError: there is no directory to look in.
    """
    found = []
    for path in sweep():
        try:
            status = ask(path, "status", Deadline(STATUS_SECONDS, f"the answer of {path.name}"))
        except OSError:  # it has just ended
            continue
        except HarnessError as error:
            status = {"error": error.message}
        found.append(RunningMachine(path.name, path, status))
    return found
