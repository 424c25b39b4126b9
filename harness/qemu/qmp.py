# Ref: QEMU docs/interop/qmp-spec.rst
"""QEMU's monitor as a synchronous session; the only asyncio in the harness.

The protocol runs on a loop in a thread of its own. Callers block with a deadline, and a deadline
that runs out cancels the request on that loop, so nothing is left behind. When QEMU ends, every
waiting and every later call ends at once with the error that ``gone`` makes.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from qemu.qmp import ExecuteError, Message, QMPClient, QMPError, Runstate

from harness.errors import HarnessError, ProtocolError
from harness.events.stream import Event, Stream, now
from harness.host.deadline import Deadline

COMMAND_SECONDS: Final = 20.0
"""How long a monitor command may take unless its caller says otherwise."""


class MonitorCommandError(HarnessError):
    """QEMU refused a monitor command; ``error_class`` and ``description`` are its answer."""

    def __init__(self, command: str, error_class: str, description: str):
        super().__init__(f"QEMU refused {command}: {description}")
        self.command = command
        self.error_class = error_class
        self.description = description


@dataclass(frozen=True, slots=True)
class MonitorMessage(Event):
    """A command, or its answer."""

    arrow: str
    """``"->"``: to QEMU, ``"<-"``: from it."""
    text: str
    """JSON, as it passed."""

    def held(self) -> int:
        """Return the bytes that this takes."""
        return self.BYTES + len(self.text)

    def __str__(self) -> str:
        return f"{self.arrow} {self.text}"


@dataclass(frozen=True, slots=True)
class MonitorEvent(Event):
    """Something that QEMU announced."""

    name: str
    data: Mapping[str, Any]
    text: str
    """JSON, as it came."""

    def held(self) -> int:
        """Return the bytes that this takes, ``data`` about twice the text."""
        return self.BYTES + 3 * len(self.text)

    def __str__(self) -> str:
        return f"<- {self.text}"


class _RecordingClient(QMPClient):
    """The library's client, writing each message into the stream as it passes."""

    def __init__(self, events: Stream, on_event: Callable[[MonitorEvent], None]):
        super().__init__("imsh")
        self._events = events
        self._on_event = on_event

    def _cb_outbound(self, msg: Message) -> Message:
        self._events.write(MonitorMessage(now(), "monitor", "->", _text(msg)))
        return super()._cb_outbound(msg)

    def _cb_inbound(self, msg: Message) -> Message:
        if "event" in msg:
            data: Any = msg.get("data", {})
            event = MonitorEvent(now(), "monitor", str(msg["event"]), data, _text(msg))
            self._events.write(event)
            self._on_event(event)
        else:
            self._events.write(MonitorMessage(now(), "monitor", "<-", _text(msg)))
        return super()._cb_inbound(msg)


def _text(message: Message) -> str:
    return bytes(message).decode(errors="replace").rstrip()


class QmpSession:
    """A negotiated monitor session, made by :func:`qmp_session`. Any thread may call it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        client: QMPClient,
        gone: Callable[[], HarnessError],
        events: Stream,
    ):
        self._loop = loop
        self._client = client
        self._gone = gone
        self._events = events

    def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        deadline: Deadline | None = None,
    ) -> Any:
        """Run a command and return its answer.

        :raises MonitorCommandError: QEMU refused.
        :raises DeadlineExpired: no answer came.
        :raises HarnessError: QEMU ended; what ``gone`` says.
        """
        deadline = deadline or Deadline(COMMAND_SECONDS, f"QEMU's answer to {command}")
        coroutine = self._client.execute(command, dict(arguments) if arguments else None)
        future = asyncio.run_coroutine_threadsafe(
            asyncio.wait_for(coroutine, deadline.remaining()), self._loop
        )
        try:
            return future.result()
        except ExecuteError as error:
            raise MonitorCommandError(command, error.error_class, error.error.error.desc) from None
        except TimeoutError:
            raise deadline.error() from None
        except (QMPError, concurrent.futures.CancelledError) as error:
            raise self._gone() from error
        finally:
            future.cancel()

    def human(self, line: str, *, deadline: Deadline | None = None) -> str:
        """Run a line of the human monitor and return what it prints.

        :raises HarnessError: as :meth:`execute`.
        """
        answer = self.execute("human-monitor-command", {"command-line": line}, deadline=deadline)
        return str(answer).replace("\r\n", "\n")

    @contextlib.contextmanager
    def expecting(
        self,
        name: str,
        deadline: Deadline,
        accept: Callable[[Mapping[str, Any]], bool] = lambda _: True,
    ) -> Iterator[list[MonitorEvent]]:
        """Hold what makes QEMU announce an event; leaving waits for it, and puts it into the list.

        :param accept: whether the event with this data is the one.
        :raises DeadlineExpired: it did not come.
        :raises HarnessError: QEMU ended.
        """
        begin = self._events.mark_of(MonitorEvent)
        announced: list[MonitorEvent] = []
        yield announced
        announced.append(
            self._events.wait(
                MonitorEvent,
                deadline,
                lambda event: event.name == name and accept(event.data),
                since=begin,
                lost=self._lost,
            )
        )

    def _lost(self) -> HarnessError | None:
        return None if self._client.runstate is Runstate.RUNNING else self._gone()


@contextlib.contextmanager
def qmp_session(
    connection: socket.socket,
    *,
    deadline: Deadline,
    gone: Callable[[], HarnessError],
    on_event: Callable[[MonitorEvent], None] = lambda _: None,
    events: Stream | None = None,
) -> Iterator[QmpSession]:
    """Hold a monitor session over a connected socket, which is owned and closed by it.

    :param gone: makes the error to raise when QEMU has ended; called by the waiting thread.
    :param on_event: called on the loop's thread with every event; must not block.
    :param events: the stream into which every message is written.
    :raises ProtocolError: the other side does not speak QMP.
    :raises DeadlineExpired: it says nothing.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="qmp", daemon=True)
    with contextlib.ExitStack() as stack:
        stack.callback(connection.close)
        thread.start()
        stack.callback(_stop_loop, loop, thread)
        events = events or Stream()
        client = _RecordingClient(events, on_event)
        _connect(loop, client, connection, deadline, gone)
        stack.callback(_disconnect, loop, client)
        asyncio.run_coroutine_threadsafe(_tell_end(client, events), loop)
        yield QmpSession(loop, client, gone, events)


def _connect(
    loop: asyncio.AbstractEventLoop,
    client: QMPClient,
    connection: socket.socket,
    deadline: Deadline,
    gone: Callable[[], HarnessError],
) -> None:
    connecting = asyncio.wait_for(client.connect(connection), deadline.remaining())
    try:
        asyncio.run_coroutine_threadsafe(connecting, loop).result()
    except TimeoutError:
        raise deadline.error() from None
    except QMPError as error:
        cause = error.__cause__ or error
        if isinstance(cause, EOFError | OSError):
            raise gone() from error
        raise ProtocolError(f"the monitor does not speak QMP: {cause}") from error


async def _tell_end(client: QMPClient, events: Stream) -> None:
    while client.runstate is Runstate.RUNNING:
        await client.runstate_changed()
    events.wake()


def _disconnect(loop: asyncio.AbstractEventLoop, client: QMPClient) -> None:
    async def disconnect() -> None:
        # Raises again what ended the session; whoever waited for an answer has been told.
        with contextlib.suppress(QMPError, EOFError, OSError):
            await client.disconnect()

    with contextlib.suppress(TimeoutError):
        asyncio.run_coroutine_threadsafe(
            asyncio.wait_for(disconnect(), COMMAND_SECONDS), loop
        ).result()


def _stop_loop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    async def cancel_all() -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(cancel_all(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
