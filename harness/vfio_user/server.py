"""Serving a device to one client: threads, and their end.

Two threads at most while a client is there: the server's own, which receives, calls the device and
answers; and the worker, which runs what the device deferred and is the one that may wait for the
client. (A third one exists while the client leaves replies unread, see
:mod:`harness.vfio_user.channel`.)
"""

from __future__ import annotations

import contextlib
import logging
import queue
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Final

from harness.events.stream import Writer
from harness.host.deadline import Deadline
from harness.spec.vfio import IrqInfoFlags
from harness.vfio_user.channel import Channel, Observer
from harness.vfio_user.device import Device
from harness.vfio_user.session import Session, State
from harness.vfio_user.transcript import observer

log = logging.getLogger(__name__)

_OTHER_FILES: Final = 512  # descriptors of a process that serves a device, but for its eventfds


def _make_room_for_eventfds(device: Device) -> None:
    """Raise the limit of open files, if it is too low for every eventfd that a client may give.

    A login's usual limit is 1024, for programs that use select(2); a device may have 2048 vectors,
    each with an eventfd for every action.
    """
    actions = {True: 3, False: 1}
    needed = _OTHER_FILES + sum(
        irq.count * actions[bool(irq.flags & IrqInfoFlags.MASKABLE)]
        for irq in device.irqs
        if irq.flags & IrqInfoFlags.EVENTFD
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        log.warning("%d eventfds may be given, and %d files may be open", needed, hard)
        needed = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class DeviceServer:
    """A device being served. Made by :func:`device_server`, which owns its end."""

    def __init__(
        self, device: Device, connection: socket.socket, observe: Observer | None, direct_dma: bool
    ):
        _make_room_for_eventfds(device)
        self._device = device
        self._connection = connection
        self._observe = observe
        self._direct_dma = direct_dma
        self._session: Session | None = None
        self._finished = threading.Event()
        self._failure: Exception | None = None
        self._closing = False
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None
        self._thread = threading.Thread(target=self._serve, name="vfio-user server")
        self._thread.start()

    @property
    def session(self) -> Session | None:
        """The client's session, None before there is one. For oracles: its memory, interrupts."""
        return self._session

    @property
    def negotiated(self) -> bool:
        """Whether the client has agreed to a version, or is gone already."""
        return self._session is not None and self._session.state is not State.NEGOTIATING

    @property
    def lost_client(self) -> bool:
        """Whether there was a client, and it has gone or is about to be released."""
        return self._session is not None and self._session.state is State.CLOSED

    @property
    def failure(self) -> Exception | None:
        """The first exception of the device that is its own fault, None when there is none."""
        return self._failure

    def check(self) -> None:
        """Raise the device's failure, if there is one. For those who wait for something else.

        :raises Exception: what the device raised, with its traceback.
        """
        if self._failure is not None:
            raise self._failure

    def wait_until_gone(self, deadline: Deadline) -> None:
        """Wait until the client has disconnected and everything of its is released.

        :raises DeadlineExpired: it is still there.
        :raises Exception: what the device raised.
        """
        if not self._finished.wait(min(deadline.remaining(), threading.TIMEOUT_MAX)):
            raise deadline.error()
        self.check()

    def _serve(self) -> None:
        try:
            connection = self._accept()
            if connection is None:
                return
            with contextlib.closing(
                Channel(connection, never_block=True, observer=self._observe)
            ) as channel:
                with self._lock:
                    self._channel = channel
                    if self._closing:
                        return
                self._session = Session(
                    channel,
                    self._device,
                    direct_dma=self._direct_dma,
                    defer=self._defer,
                    failed=self._fail,
                )
                self._session.run()
        except Exception as error:
            self._fail(error)
        finally:
            self._work.put(None)
            self._finished.set()

    def _accept(self) -> socket.socket | None:
        """Return the connection to serve, the first one of a listening socket; None if closing."""
        if not self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return self._connection
        try:
            connection, _ = self._connection.accept()
        except OSError:
            if not self._closing:
                raise
            return None
        self._connection.close()  # one server, one client: the next one is refused at once
        return connection

    def _defer(self, work: Callable[[], None]) -> None:
        self._work.put(work)
        with self._lock:
            if self._worker is None:
                self._worker = threading.Thread(target=self._run_work, name="vfio-user worker")
                self._worker.start()

    def _run_work(self) -> None:
        while (work := self._work.get()) is not None and not self._is_over():
            try:
                work()
            except Exception as error:
                if isinstance(error, ConnectionError) and self._is_over():
                    log.info("deferred work was cut off: %s", error)
                else:
                    self._fail(error)

    def _is_over(self) -> bool:
        return self._closing or self._finished.is_set()

    def _fail(self, error: Exception) -> None:
        with self._lock:
            first = self._failure is None
            if first:
                self._failure = error
        # One is enough to look at; a client can bring them about as fast as it can write.
        log.log(logging.ERROR if first else logging.DEBUG, "the device failed", exc_info=error)

    def close(self) -> None:
        """Cut the client off, and end both threads. Work that has not begun is dropped."""
        with self._lock:
            self._closing = True
            channel = self._channel
        if channel is not None:
            channel.shutdown()
        else:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join()
        if self._worker is not None:
            self._worker.join()
        self._connection.close()


@contextlib.contextmanager
def device_server(
    device: Device,
    connection: socket.socket,
    *,
    direct_dma: bool = True,
    writer: Writer | None = None,
) -> Iterator[DeviceServer]:
    """Hold a server of ``device`` for one client, and raise at exit what the device raised.

    When the body ends with an error of its own and the device had failed before, the device's
    failure is raised with the body's as context: it is the reason more often than not.

    :param connection: one end of a socket pair, an accepted connection, or a listening socket,
        whose first client is served. It is closed at exit at the latest. The device keeps its
        state, and can be served again over another connection.
    :param direct_dma: access client memory in place where the client passes file descriptors. False
        makes every access a message: for guests whose memory is mapped privately.
    :param writer: writes the messages into the stream.
    :raises Exception: what the device raised.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(connection.close)
        server = DeviceServer(device, connection, observer(writer), direct_dma)
        stack.callback(server.close)
        try:
            yield server
        except Exception:
            stack.close()
            server.check()
            raise
        stack.close()
        server.check()
