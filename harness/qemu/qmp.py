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
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError, Runstate

from harness.errors import HarnessError, ProtocolError
from harness.events.stream import Event as StreamEvent
from harness.events.stream import Stream, now
from harness.host.deadline import Deadline

T = TypeVar("T")

log = logging.getLogger(__name__)

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
class Event:
    """Something QEMU announced; ``seconds`` is its clock when it happened."""

    name: str
    data: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True, slots=True)
class MonitorMessage(StreamEvent):
    """A command, its answer, or something that QEMU announced."""

    arrow: str
    """``"->"``: to QEMU, ``"<-"``: from it."""
    text: str
    """JSON, as it passed."""

    def held(self) -> int:
        """Return the bytes that this takes."""
        return self.BYTES + len(self.text)

    def __str__(self) -> str:
        return f"{self.arrow} {self.text}"


class _RecordingClient(QMPClient):
    """The library's client, writing each message into the stream as it passes."""

    def __init__(self, events: Stream):
        super().__init__("imsh")
        self._events = events

    def _record(self, arrow: str, message: Message) -> None:
        text = bytes(message).decode(errors="replace").rstrip()
        self._events.write(MonitorMessage(now(), "monitor", arrow, text))

    def _cb_outbound(self, msg: Message) -> Message:
        self._record("->", msg)
        return super()._cb_outbound(msg)

    def _cb_inbound(self, msg: Message) -> Message:
        self._record("<-", msg)
        return super()._cb_inbound(msg)


class QmpSession:
    """A negotiated monitor session, made by :func:`qmp_session`. Any thread may call it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, client: QMPClient, gone: Callable[[], HarnessError]
    ):
        self._loop = loop
        self._client = client
        self._gone = gone

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
    def events(self, *names: str) -> Iterator[EventQueue]:
        """Hold a queue of the events of these names (all, when none is given) from here on."""
        listener = EventListener(names or None)

        async def change(action: Callable[[EventListener], None]) -> None:
            action(listener)

        self._call(change(self._client.register_listener))
        try:
            yield EventQueue(self, listener)
        finally:
            # The loop outlives the session's users: qmp_session is left last.
            self._call(change(self._client.remove_listener))

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(COMMAND_SECONDS)

    async def _next_event(self, listener: EventListener, seconds: float) -> Message:
        """Return the next event; ends with QMPError when the session does."""
        event = asyncio.ensure_future(listener.get())
        ended = asyncio.ensure_future(self._ended())
        try:
            await asyncio.wait({event, ended}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if event.done():
                return event.result()
            if ended.done():
                raise QMPError("the session has ended")
            raise TimeoutError
        finally:
            event.cancel()
            ended.cancel()

    async def _ended(self) -> None:
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()


class EventQueue:
    """Events in the order in which QEMU announced them."""

    def __init__(self, session: QmpSession, listener: EventListener):
        self._session = session
        self._listener = listener

    def wait(self, deadline: Deadline, accept: Callable[[Event], bool] = lambda _: True) -> Event:
        """Return the next event that is accepted; others before it are dropped.

        :raises DeadlineExpired: none came.
        :raises HarnessError: QEMU ended.
        """
        session = self._session
        while True:
            future = asyncio.run_coroutine_threadsafe(
                session._next_event(self._listener, deadline.remaining()), session._loop
            )
            try:
                event = _event(future.result())
            except TimeoutError:
                raise deadline.error() from None
            except (QMPError, concurrent.futures.CancelledError) as error:
                raise session._gone() from error
            if accept(event):
                return event


def _event(message: Message) -> Event:
    fields: Mapping[str, Any] = message
    stamp = fields["timestamp"]
    seconds = stamp["seconds"] + stamp["microseconds"] / 1e6
    return Event(fields["event"], fields.get("data", {}), seconds)


@contextlib.contextmanager
def qmp_session(
    connection: socket.socket,
    *,
    deadline: Deadline,
    gone: Callable[[], HarnessError],
    on_event: Callable[[Event], None] | None = None,
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
        client = _RecordingClient(events or Stream())
        if on_event:
            listen = _forward_events(client, on_event)
            stack.callback(asyncio.run_coroutine_threadsafe(listen, loop).cancel)
        _connect(loop, client, connection, deadline, gone)
        stack.callback(_disconnect, loop, client)
        yield QmpSession(loop, client, gone)


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


async def _forward_events(client: QMPClient, on_event: Callable[[Event], None]) -> None:
    with client.listener() as listener:
        async for message in listener:
            on_event(_event(message))


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
