"""Who notices that a machine is lost, and what they say.

A panic on the console, a reset or power-off that nobody asked for, QEMU's end: each is seen by the
thread that reads the console or the monitor, and becomes the one error of the machine's
:class:`~harness.qemu.vitals.Vitals`.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Final

from harness.errors import GuestLost, GuestPanic, HarnessError, QemuExited
from harness.events.stream import Stream
from harness.host.deadline import Deadline
from harness.host.process import Process, tail_of_file
from harness.qemu.console import Console, watched_console
from harness.qemu.qmp import MonitorEvent, QmpSession, qmp_session
from harness.qemu.vitals import Vitals

log = logging.getLogger(__name__)

LAUNCH_SECONDS: Final = 20.0
"""How long QEMU may take to answer at its monitor."""
EXIT_SECONDS: Final = 3.0
"""How long its exit status may come after its console has closed."""


class Watch:
    """Reads console and monitor of one QEMU, and tells its vitals what goes wrong."""

    def __init__(self, name: str, process: Process, vitals: Vitals, events: Stream):
        self._name = name
        self._events = events
        self._process = process
        self._vitals = vitals
        self._console: Console | None = None
        self._shutdown_expected = False

    def expect_shutdown(self) -> None:
        """From here on the guest may go down without being lost."""
        self._shutdown_expected = True

    @contextlib.contextmanager
    def console(
        self, connection: socket.socket, alarm: Callable[[str], str | None]
    ) -> Iterator[Console]:
        """Hold the console; see :func:`~harness.qemu.console.watched_console`."""
        with watched_console(
            connection,
            alarm=alarm,
            on_alarm=self._on_alarm,
            on_end=self._on_exit,
            events=self._events,
        ) as console:
            self._console = console
            yield console

    def monitor(self, connection: socket.socket) -> contextlib.AbstractContextManager[QmpSession]:
        """Hold the monitor; see :func:`~harness.qemu.qmp.qmp_session`."""
        return qmp_session(
            connection,
            deadline=Deadline(LAUNCH_SECONDS, "QEMU's monitor"),
            gone=self._gone,
            on_event=self._on_event,
            events=self._events,
        )

    def _on_alarm(self, kind: str, line: str) -> None:
        self._vitals.lose(
            GuestPanic(f"{kind} in the guest: {line.strip()}", evidence=self._console_tail())
        )

    def _on_event(self, event: MonitorEvent) -> None:
        log.debug("%s: %s %s", self._name, event.name, event.data)
        if event.name == "GUEST_PANICKED":
            tail = self._console_tail()
            self._vitals.lose(GuestPanic("the guest reported a panic", evidence=tail))
        elif event.name == "SHUTDOWN" and event.data["guest"] and not self._shutdown_expected:
            lost = GuestLost(
                f"the guest went down by itself: {event.data['reason']}",
                evidence=self._console_tail(),
            )
            self._vitals.lose(lost)

    def _on_exit(self) -> None:
        # The console is closed by QEMU's end; the exit status is there in a moment.
        try:
            status = self._process.wait(Deadline(EXIT_SECONDS, "QEMU's exit status"))
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
        except HarnessError:
            how = "still running, its console closed"
        self._vitals.lose(
            QemuExited(f"QEMU ended ({how})", evidence=tail_of_file(self._process.log))
        )

    def _gone(self) -> HarnessError:
        return self._vitals.wait_lost() or QemuExited("QEMU closed its monitor")

    def _console_tail(self) -> str:
        return self._console.tail() if self._console else ""
