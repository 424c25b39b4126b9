"""The life of a virtual machine, from QEMU's start to its end.

    STARTED     QEMU runs and its monitor answers
    READY       the guest has printed its ready line, with this machine's nonce; or it continues
                from a saved state, in which it had
    SAVED       it was stopped and saved, and does not run again
    OFF         the guest was asked to power off, and did
    ENDED       QEMU is gone

Beside it stands :class:`~harness.qemu.vitals.Vitals`: a panic on the console, a reset or power-off
that nobody asked for, or QEMU's end are noticed when they happen, by whichever thread sees them
first, and every later call fails at once with that error. No file, socket or process outlives the
machine: all that connects it are inherited descriptors, and the kernel kills QEMU when the harness
dies.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from harness.errors import GuestLost, GuestPanic, HarnessError, LaunchError, QemuExited
from harness.host.cpio import Entry, archive
from harness.host.deadline import Deadline
from harness.host.process import Process, running, shell_line, tail_of_file
from harness.host.workspace import Workspace
from harness.qemu import command
from harness.qemu.command import Json, MachineSpec, Wiring
from harness.qemu.console import Console, watched_console
from harness.qemu.memory import GuestMemory, guest_memory, memory_file, saved_memory_file
from harness.qemu.qmp import Event, QmpSession, qmp_session
from harness.qemu.snapshot import SavedState, load_state, save_state
from harness.qemu.trace import TrappedAccesses, trapped_accesses
from harness.qemu.vitals import Vitals

log = logging.getLogger(__name__)

LAUNCH_SECONDS: Final = 20.0
BOOT_SECONDS: Final = 60.0
QUIT_SECONDS: Final = 3.0

READY_LINE: Final = "imsh-init: ready"
"""What images/rootfs/init puts into the kernel's log, with the nonce behind it."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What a machine boots. ``kernel_arguments`` are added behind the specification's."""

    kernel: Path
    image: Path
    kernel_arguments: tuple[str, ...] = ()


class Machine:
    """A running QEMU. Made by :func:`running_machine`, which owns its end."""

    def __init__(
        self,
        spec: MachineSpec,
        workspace: Workspace,
        process: Process,
        vitals: Vitals,
        *,
        nonce: str,
        ram_fd: int,
        reproduce_line: str,
    ):
        self.spec = spec
        self.workspace = workspace
        self.vitals = vitals
        self.reproduce_line = reproduce_line
        """Paste it into a shell: the same machine by hand, without the devices that we serve."""
        self.console: Console
        self.qmp: QmpSession
        self.memory: GuestMemory
        self.ports: dict[str, socket.socket] = {}
        """Our ends of the guest's virtio-serial ports, by name: one user each."""
        self._process = process
        self._nonce = nonce
        self._ram_fd = ram_fd
        self._state = State.STARTED
        self._shutdown_reason: str | None = None
        self._shutdown_expected = False

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
        pattern = re.escape(f"{READY_LINE} {self._nonce}")
        self.console.wait_for(pattern, deadline, lost=lambda: self.vitals.error)
        self._enter(State.READY)

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

    def trapped_accesses(self) -> contextlib.AbstractContextManager[TrappedAccesses]:
        """Count the guest's accesses that end inside QEMU while this is held."""
        self.vitals.check()
        return trapped_accesses(self.qmp, self.workspace.path("trace.log"))

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
        with self.qmp.events("DEVICE_DELETED") as events:
            self.qmp.execute("device_del", {"id": identifier}, deadline=deadline)
            events.wait(deadline, lambda event: event.data.get("device") == identifier)

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

    def _continue_from(self, saved: SavedState) -> None:
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
        self._shutdown_expected = True
        with self.qmp.events("SHUTDOWN") as events:
            yield
            events.wait(deadline)
        self._enter(State.OFF)

    def _enter(self, state: State) -> None:
        log.info("%s: %s -> %s", self.spec.name, self._state.value, state.value)
        self._state = state

    def _require(self, state: State, attempt: str) -> None:
        self.vitals.check()
        if self._state is not state:
            raise HarnessError(
                f"cannot {attempt}: the machine is {self._state.value}, not {state.value}"
            )

    # What the watching threads report.

    def _on_alarm(self, kind: str, line: str) -> None:
        self.vitals.lose(
            GuestPanic(f"{kind} in the guest: {line.strip()}", evidence=self.console.tail())
        )

    def _on_event(self, event: Event) -> None:
        log.debug("%s: %s %s", self.spec.name, event.name, event.data)
        tail = self.console.tail()
        if event.name == "GUEST_PANICKED":
            self.vitals.lose(GuestPanic("the guest reported a panic", evidence=tail))
        elif event.name == "SHUTDOWN" and event.data["guest"] and not self._shutdown_expected:
            reason = event.data["reason"]
            self.vitals.lose(GuestLost(f"the guest went down by itself: {reason}", evidence=tail))

    def _on_exit(self) -> None:
        # The console is closed by QEMU's end; the exit status is there in a moment.
        try:
            status = self._process.wait(Deadline(QUIT_SECONDS, "QEMU's exit status"))
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
        except HarnessError:
            how = "still running, its console closed"
        self.vitals.lose(
            QemuExited(f"QEMU ended ({how})", evidence=tail_of_file(self._process.log))
        )

    def _gone(self) -> HarnessError:
        return self.vitals.wait_lost() or QemuExited("QEMU closed its monitor")

    def _quit(self) -> None:
        with contextlib.suppress(HarnessError):
            if self.vitals.error is None or self._process.poll() is None:
                self.qmp.execute("quit", deadline=Deadline(QUIT_SECONDS, "QEMU's quit"))
        with contextlib.suppress(HarnessError):
            self._process.wait(Deadline(QUIT_SECONDS, "QEMU's end"))
        self._enter(State.ENDED)


class Registers:
    """Device registers, read through QEMU's monitor as a CPU would read them."""

    def __init__(self, qmp: QmpSession, base: int):
        self._qmp = qmp
        self._base = base

    def read32(self, offset: int) -> int:
        """Return the 32-bit register at ``offset``."""
        return self._read("w", offset)

    def read64(self, offset: int) -> int:
        """Return the 64-bit register at ``offset``."""
        return self._read("g", offset)

    def _read(self, size: str, offset: int) -> int:
        answer = self._qmp.human(f"xp /1{size}x {self._base + offset:#x}")
        match = re.fullmatch(r"\s*[0-9a-f]+: (0x[0-9a-f]+)\s*", answer)
        if not match:
            raise HarnessError(f"cannot read the register at {self._base + offset:#x}: {answer}")
        return int(match[1], 16)


@contextlib.contextmanager
def _initrd_file(image: Path, nonce: str) -> Iterator[int]:
    """Hold an anonymous file of the image with an archive behind it that holds the nonce."""
    fd = os.memfd_create("imsh-initrd", os.MFD_CLOEXEC)
    try:
        with image.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            while os.sendfile(fd, source.fileno(), None, size):
                pass
        # The kernel looks for the next archive at a multiple of four bytes.
        os.lseek(fd, -(-size // 4) * 4, os.SEEK_SET)
        os.write(fd, archive([Entry.file("etc/imsh/nonce", f"{nonce}\n".encode())]))
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def running_machine(
    spec: MachineSpec,
    *,
    qemu: Sequence[str],
    boot: Boot,
    workspace: Workspace,
    alarm: Callable[[str], str | None],
    devices: Sequence[Json] = (),
    saved: SavedState | None = None,
) -> Iterator[Machine]:
    """Hold a machine whose QEMU runs and whose guest boots, or continues; it is ended at exit.

    Enter it in a thread that lives as long as the machine: QEMU dies with the thread.

    :param qemu: QEMU's path, or a loader with arguments in front of it.
    :param alarm: says which disaster a console line announces, or None.
    :param devices: plugged in from the start, see :func:`~harness.qemu.command.vfio_user_device`;
        their servers must be running already, or QEMU's start does not end.
    :param saved: continue from here: a machine of the same specification that booted ``boot``.
        The files are left as they are.
    :raises LaunchError: QEMU did not start; carries its output and its arguments.
    :raises SnapshotUnusable: QEMU does not take the saved state.
    """
    nonce = secrets.token_hex(8)
    vitals = Vitals()
    by_hand = command.options(
        spec,
        Wiring(
            kernel=str(boot.kernel),
            initrd=str(boot.image),
            kernel_arguments=boot.kernel_arguments,
        ),
    )
    with contextlib.ExitStack() as stack:
        monitor, qemu_monitor = _socket_pair(stack)
        terminal, qemu_terminal = _socket_pair(stack)
        pairs = {name: _socket_pair(stack) for name in PORTS}
        ram_fd = stack.enter_context(_memory(spec, saved))
        wiring = Wiring(
            memory=f"/proc/self/fd/{ram_fd}",
            private_memory=saved is not None,
            incoming=saved is not None,
            ports=tuple((name, theirs.fileno()) for name, (_, theirs) in pairs.items()),
            qmp_fd=qemu_monitor.fileno(),
            console_fd=qemu_terminal.fileno(),
            console_log=workspace.path("console.log"),
            trace_log=workspace.path("trace.log"),
            devices=tuple(devices),
        )
        passed = [ram_fd]
        if saved is None:
            initrd_fd = stack.enter_context(_initrd_file(boot.image, nonce))
            passed.append(initrd_fd)
            wiring = replace(
                wiring,
                kernel=str(boot.kernel),
                initrd=f"/proc/self/fd/{initrd_fd}",
                kernel_arguments=boot.kernel_arguments,
            )
        theirs = [qemu_monitor, qemu_terminal, *(end for _, end in pairs.values())]
        options = command.options(spec, wiring)
        workspace.write("qemu.argv", command.printable(qemu, options) + "\n")
        workspace.write("reproduce.sh", command.printable(qemu, by_hand) + "\n")
        argv = command.argv(qemu, options)
        process = stack.enter_context(
            running(
                argv,
                name="qemu",
                log=workspace.path("qemu.log"),
                pass_fds=(*passed, *(end.fileno() for end in theirs)),
            )
        )
        for end in theirs:
            end.close()
        machine = Machine(
            spec,
            workspace,
            process,
            vitals,
            nonce=nonce,
            ram_fd=ram_fd,
            reproduce_line=shell_line(command.argv(qemu, by_hand)),
        )
        machine.ports = {name: ours for name, (ours, _) in pairs.items()}
        with _launch_failures(process, argv):
            machine.console = stack.enter_context(
                watched_console(
                    terminal,
                    alarm=alarm,
                    on_alarm=machine._on_alarm,
                    on_end=machine._on_exit,
                )
            )
            machine.qmp = stack.enter_context(
                qmp_session(
                    monitor,
                    deadline=Deadline(LAUNCH_SECONDS, "QEMU's monitor"),
                    gone=machine._gone,
                    on_event=machine._on_event,
                    transcript=workspace.path("qmp.log"),
                )
            )
            stack.callback(machine._quit)
            machine.memory = stack.enter_context(guest_memory(process.pid, ram_fd))
            if saved:
                machine._continue_from(saved)
        stack.enter_context(vitals.on_loss(machine.console.wake))
        yield machine


def _socket_pair(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    stack.callback(theirs.close)
    stack.callback(ours.close)
    return ours, theirs


def _memory(spec: MachineSpec, saved: SavedState | None) -> contextlib.AbstractContextManager[int]:
    """Return what holds the file behind guest memory, as a descriptor."""
    return saved_memory_file(saved.memory) if saved else memory_file(spec.memory << 20)


@contextlib.contextmanager
def _launch_failures(process: Process, argv: Sequence[str]) -> Iterator[None]:
    """Report QEMU's end inside as a failed start."""
    try:
        yield
    except QemuExited as error:
        raise LaunchError(
            f"QEMU did not start: {error.message}",
            evidence=f"{error.evidence}\n$ {shell_line(argv)}",
            hint=f"QEMU's whole output: {process.log}",
        ) from error
