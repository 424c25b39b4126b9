"""A virtual machine that runs: its life, and what can be done with it.

    STARTED     QEMU runs and its monitor answers
    READY       the guest has printed its ready line, with this machine's nonce; or it continues
                from a saved state, in which it had
    SAVED       it was stopped and saved, and does not run again
    OFF         the guest was asked to power off, and did
    ENDED       QEMU is gone

Beside it stands :class:`~harness.qemu.vitals.Vitals`: a panic on the console, a reset or power-off
that nobody asked for, or QEMU's end are noticed when they happen, by whichever thread sees them
first (:mod:`harness.qemu.watch`), and every later call fails at once with that error.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from harness.errors import DeadlineExpired, HarnessError
from harness.events.stream import Stream
from harness.host.deadline import SLOWDOWN_VARIABLE, Deadline
from harness.host.process import Process
from harness.host.workspace import Workspace
from harness.qemu.command import Json, MachineSpec
from harness.qemu.console import Console
from harness.qemu.memory import GuestRam
from harness.qemu.qmp import QmpSession
from harness.qemu.registers import Registers
from harness.qemu.snapshot import SavedState, load_state, save_state
from harness.qemu.trace import LogTail, TraceLog, TrappedAccesses
from harness.qemu.vitals import Vitals
from harness.qemu.watch import Watch

log = logging.getLogger(__name__)

BOOT_SECONDS: Final = 60.0
QUIT_SECONDS: Final = 3.0

READY_LINE: Final = "imsh-init: ready"
"""What images/rootfs/init puts into the kernel's log, with the nonce behind it."""

_HANGS: Final = (
    "how far it came is on its console; `imsh run --append 'initcall_debug ignore_loglevel'` shows "
    f"each step of the kernel's start, {SLOWDOWN_VARIABLE}=4 waits four times as long"
)

TEST_PORT: Final = "imsh.test"
"""Virtio-serial port at which the control tool answers tests."""
HOST_PORT: Final = "imsh.host"
"""The same for the harness itself. (images/rootfs/init names both.)"""
PORTS: Final = (TEST_PORT, HOST_PORT)


class State(enum.Enum):
    """Where a machine is in its life; see the module."""

    STARTED = "started"
    READY = "ready"
    SAVED = "saved"
    OFF = "off"
    ENDED = "ended"


class Machine:
    """A running QEMU. Made by :func:`~harness.qemu.launch.running_machine`, which owns its end."""

    def __init__(
        self,
        spec: MachineSpec,
        workspace: Workspace,
        process: Process,
        vitals: Vitals,
        watch: Watch,
        *,
        console: Console,
        qmp: QmpSession,
        events: Stream,
        memory: GuestRam,
        ports: Mapping[str, socket.socket],
        ram_fd: int,
        nonce: str,
        reproduce_line: str,
    ):
        self.spec = spec
        self.workspace = workspace
        self.vitals = vitals
        self.console = console
        self.qmp = qmp
        self.events = events
        """What everybody who looks at this machine has seen."""
        self.memory = memory
        self.ports = ports
        """Our ends of the guest's virtio-serial ports, by name: one user each."""
        self.reproduce_line = reproduce_line
        """Paste it into a shell: the same machine by hand, without the devices that we serve."""
        self._trace = TraceLog(qmp, workspace.path("trace.log"), events)
        self._process = process
        self._watch = watch
        self._ram_fd = ram_fd
        self._nonce = nonce
        self._state = State.STARTED

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        return self._process.pid

    @property
    def state(self) -> State:
        """Where the machine is in its life."""
        return self._state

    def wait_ready(self, deadline: Deadline | None = None) -> None:
        """Wait until the guest says that it can be talked to.

        :raises GuestPanic, GuestLost, QemuExited: it never will.
        :raises DeadlineExpired: with the console's tail.
        """
        self.vitals.check()
        deadline = deadline or Deadline(BOOT_SECONDS, f"the ready line of {self.spec.name}")
        if self._state is State.READY:
            return
        self._require(State.STARTED, "wait for the guest's start")
        try:
            self.wait_ready_line(self._nonce, deadline)
        except DeadlineExpired as error:
            error.hint = _HANGS
            raise
        self._enter(State.READY)

    def wait_ready_line(self, nonce: str, deadline: Deadline) -> None:
        """Wait until a guest says that it is ready whose image holds this nonce.

        :raises GuestPanic, GuestLost, QemuExited: it never will.
        :raises DeadlineExpired: with the console's tail.
        """
        self.console.wait_for(re.escape(f"{READY_LINE} {nonce}"), deadline)

    def ssh_address(self) -> tuple[str, int]:
        """Return the loopback address and port that lead to the guest's SSH server."""
        self.vitals.check()
        text = self.qmp.human("info usernet")
        if match := re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+(\S+)\s+(\d+)\s", text):
            return match[1], int(match[2])
        raise HarnessError("QEMU does not forward a port to the guest", evidence=text)

    def registers(self, base: int) -> Registers:
        """Return a reader of the device registers at guest physical address ``base``."""
        return Registers(self.qmp, base)

    @contextlib.contextmanager
    def trapped_accesses(self) -> Iterator[TrappedAccesses]:
        """See the guest's accesses that end inside QEMU while this is held."""
        self.vitals.check()
        trapped = TrappedAccesses(self.events, self.events.mark())
        with self._trace.accesses():
            yield trapped
        trapped.end()

    def followed_trace(self) -> LogTail:
        """Return what reads QEMU's log of the VT-d unit from now on."""
        self.vitals.check()
        return self._trace.followed_unit()

    def followed_messages(self) -> LogTail:
        """Return what reads QEMU's log of the MSI and MSI-X messages of vfio-user functions."""
        self.vitals.check()
        return self._trace.followed_messages()

    def followed_errors(self) -> LogTail:
        """Return what reads QEMU's complaints."""
        return LogTail(self.workspace.path("qemu.log"))

    def followed_emulated(self) -> LogTail:
        """Return what reads QEMU's log of the messages of devices that it emulates itself."""
        self.vitals.check()
        return self._trace.followed_emulated()

    def plug(self, device: Json, deadline: Deadline | None = None) -> None:
        """Plug a device in. One that is served here must have its server running already.

        :raises MonitorCommandError: QEMU refused it.
        """
        self.vitals.check()
        self.qmp.execute("device_add", device, deadline=deadline)

    def unplug(self, identifier: str, deadline: Deadline | None = None) -> None:
        """Ask the guest to let go of a device, and wait until it is gone.

        :raises DeadlineExpired: the guest did not let go.
        """
        self.vitals.check()
        deadline = deadline or Deadline(20.0, f"the removal of {identifier}")
        with self.qmp.expecting(
            "DEVICE_DELETED", deadline, lambda data: data.get("device") == identifier
        ):
            self.qmp.execute("device_del", {"id": identifier}, deadline=deadline)

    def pause(self) -> None:
        """Stop the virtual CPUs."""
        self.qmp.execute("stop")

    def resume(self) -> None:
        """Let the virtual CPUs run."""
        self.qmp.execute("cont")

    def save(self, directory: Path) -> SavedState:
        """Stop the guest and save it in an empty directory; it does not run again.

        :raises OSError, HarnessError: see :func:`~harness.qemu.snapshot.save_state`.
        """
        self._require(State.READY, "save the machine")
        self.pause()
        self._enter(State.SAVED)
        return save_state(self.qmp, self._ram_fd, directory)

    def continue_from(self, saved: SavedState) -> None:
        """Let the guest go on from a saved state, for which its QEMU waits.

        :raises SnapshotUnusable: QEMU does not take it.
        """
        load_state(self.qmp, saved)
        self.resume()
        self._enter(State.READY)

    @contextlib.contextmanager
    def powering_off(self, deadline: Deadline | None = None) -> Iterator[None]:
        """Expect the guest to power off: ask it inside, and leaving waits for it.

        :raises DeadlineExpired: it did not.
        """
        self._require(State.READY, "power the guest off")
        deadline = deadline or Deadline(20.0, "the guest's power-off")
        self._watch.expect_shutdown()
        with self.qmp.expecting("SHUTDOWN", deadline):
            yield
        self._enter(State.OFF)

    def quit(self) -> None:
        """End QEMU in good order, if it still runs; whoever owns the process kills it if not."""
        with contextlib.suppress(HarnessError):
            if self.vitals.error is None or self._process.poll() is None:
                self.qmp.execute("quit", deadline=Deadline(QUIT_SECONDS, "QEMU's quit"))
        with contextlib.suppress(HarnessError):
            self._process.wait(Deadline(QUIT_SECONDS, "QEMU's end"))
        self._enter(State.ENDED)

    def _enter(self, state: State) -> None:
        log.info("%s: %s -> %s", self.spec.name, self._state.value, state.value)
        self._state = state

    def _require(self, state: State, attempt: str) -> None:
        self.vitals.check()
        if self._state is not state:
            raise HarnessError(
                f"cannot {attempt}: the machine is {self._state.value}, not {state.value}"
            )
