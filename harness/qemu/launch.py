"""From a specification to a machine that runs: descriptors made, QEMU started, everything joined.

No file, socket or process outlives the machine: all that connects it are inherited descriptors, and
the kernel kills QEMU when the harness dies.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from harness.errors import LaunchError, QemuExited
from harness.events.stream import Stream
from harness.events.timeline import timeline
from harness.host.cpio import Entry, archive
from harness.host.process import Process, running, shell_line
from harness.host.workspace import Workspace
from harness.qemu import command
from harness.qemu.command import Json, MachineSpec, Wiring
from harness.qemu.firmware import file_name, firmware
from harness.qemu.machine import PORTS, Machine
from harness.qemu.memory import guest_memory, memory_file, saved_memory_file
from harness.qemu.snapshot import SavedState
from harness.qemu.trace import UNIT_EVENTS
from harness.qemu.vitals import Vitals
from harness.qemu.watch import Watch

TIMELINE: Final = "timeline.txt"
"""What happened, beside the console of a machine that ended with an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What a machine boots. ``kernel_arguments`` are added behind the specification's."""

    kernel: Path
    image: Path
    kernel_arguments: tuple[str, ...] = ()


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
    acpi_tables, boot = _with_firmware(spec, boot, workspace)
    events = Stream(lost=lambda: vitals.error)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_timeline_of_a_failure(events, workspace))
        ends = _Ends(stack)
        ram_fd = stack.enter_context(_memory(spec, saved))
        wiring = Wiring(
            memory=f"/proc/self/fd/{ram_fd}",
            private_memory=saved is not None,
            incoming=saved is not None,
            ports=tuple((name, theirs.fileno()) for name, (_, theirs) in ends.ports.items()),
            qmp_fd=ends.monitor[1].fileno(),
            console_fd=ends.console[1].fileno(),
            console_log=workspace.path("console.log"),
            trace_log=workspace.path("trace.log"),
            trace_events=UNIT_EVENTS if spec.iommu else (),
            devices=tuple(devices),
            acpi_tables=acpi_tables,
        )
        passed = [ram_fd, *ends.passed]
        if saved is None:
            initrd_fd = stack.enter_context(_initrd_file(boot.image, nonce))
            passed.append(initrd_fd)
            wiring = replace(
                wiring,
                kernel=str(boot.kernel),
                initrd=f"/proc/self/fd/{initrd_fd}",
                kernel_arguments=boot.kernel_arguments,
            )
        options = command.options(spec, wiring)
        by_hand = _options_by_hand(spec, boot, acpi_tables)
        workspace.write("qemu.argv", command.printable(qemu, options) + "\n")
        workspace.write("reproduce.sh", command.printable(qemu, by_hand) + "\n")
        argv = command.argv(qemu, options)
        process = stack.enter_context(
            running(argv, name="qemu", log=workspace.path("qemu.log"), pass_fds=passed)
        )
        ends.close_theirs()
        watch = Watch(spec.name, process, vitals, events)
        stack.enter_context(vitals.on_loss(events.wake))
        with _launch_failures(process, argv):
            console = stack.enter_context(watch.console(ends.console[0], alarm))
            qmp = stack.enter_context(watch.monitor(ends.monitor[0]))
            machine = Machine(
                spec,
                workspace,
                process,
                vitals,
                watch,
                console=console,
                qmp=qmp,
                events=events,
                memory=stack.enter_context(guest_memory(process.pid, ram_fd)),
                ram_fd=ram_fd,
                ports={name: ours for name, (ours, _) in ends.ports.items()},
                nonce=nonce,
                reproduce_line=shell_line(command.argv(qemu, by_hand)),
            )
            stack.callback(machine.quit)
            if saved:
                machine.continue_from(saved)
        yield machine


@contextlib.contextmanager
def _timeline_of_a_failure(events: Stream, workspace: Workspace) -> Iterator[None]:
    """Leave what happened beside the console when the body fails."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # the disk may be full
            workspace.write(TIMELINE, "".join(timeline(events)))
        raise


class _Ends:
    """The socket pairs between us and one QEMU, each as (ours, theirs); a stack closes them."""

    def __init__(self, stack: contextlib.ExitStack):
        def pair() -> tuple[socket.socket, socket.socket]:
            ours, theirs = socket.socketpair()
            stack.callback(theirs.close)
            stack.callback(ours.close)
            return ours, theirs

        self.monitor = pair()
        self.console = pair()
        self.ports = {name: pair() for name in PORTS}
        self._theirs = [end for _, end in (self.monitor, self.console, *self.ports.values())]

    @property
    def passed(self) -> list[int]:
        """The descriptors that QEMU inherits."""
        return [end.fileno() for end in self._theirs]

    def close_theirs(self) -> None:
        """Leave QEMU the only holder of its ends, so that its end is seen at ours."""
        for end in self._theirs:
            end.close()


def _with_firmware(
    spec: MachineSpec, boot: Boot, workspace: Workspace
) -> tuple[tuple[Path, ...], Boot]:
    """Return the files of a machine's tables, and what to boot so that the kernel gets the others.

    Both are left in the workspace: whoever starts the machine by hand needs them, too.
    """
    tables = firmware(spec)
    added = []
    for number, table in enumerate(tables.added):
        added.append(workspace.path(file_name(number, table)))
        added[-1].write_bytes(table)
    if tables.upgrades:
        image = workspace.path("initramfs-with-tables.cpio")
        image.write_bytes(tables.archive + boot.image.read_bytes())
        boot = replace(boot, image=image)
    return tuple(added), boot


def _options_by_hand(
    spec: MachineSpec, boot: Boot, acpi_tables: tuple[Path, ...]
) -> list[command.Option]:
    """Return the options of the same machine on a terminal, without the devices we serve."""
    wiring = Wiring(
        kernel=str(boot.kernel),
        initrd=str(boot.image),
        kernel_arguments=boot.kernel_arguments,
        acpi_tables=acpi_tables,
    )
    return command.options(spec, wiring)


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
