"""Sockets by which other processes of the same user reach what this one holds.

    $XDG_RUNTIME_DIR/imsh/        or run/ in the cache; the user's own, mode 0700
        4711-9f3a2c1e             a listening socket of process 4711

One request and one answer a connection, a line of JSON each: ``{"op": NAME}``, and an object with
``error`` in it when it was refused. A connection is served by a thread of its own, under bounds of
time and size, so that a client that is silent, slow or never reads keeps nobody waiting.

The kernel says who connects (SO_PEERCRED). A name whose process was killed stays behind and
refuses connections; whoever looks into the directory next sweeps it away.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from harness.errors import HarnessError, ProtocolError
from harness.host.cache import cache_directory
from harness.host.deadline import Deadline, wait_until

log = logging.getLogger(__name__)

REQUEST_SECONDS: Final = 2.0
"""How long a client may take to say what it wants, and to take the answer."""
LOCK_SECONDS: Final = 2.0
REQUEST_BYTES: Final = 4096
ANSWER_BYTES: Final = 64 << 20
CLIENTS: Final = 8
"""Connections that are served at once; further ones are told to come again."""

_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid (unix(7))

Operation = Callable[[], Mapping[str, object]]


def socket_directory() -> Path:
    """Return the directory of this user's sockets, made if need be.

    :raises HarnessError: it cannot be made, or somebody else could get at it.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    directory = Path(runtime, "imsh") if runtime else cache_directory() / "run"
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        found = directory.lstat()
    except OSError as error:
        raise HarnessError(f"{directory}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise HarnessError(f"{directory} is not a directory of this user's alone", hint="remove it")
    return directory


@contextlib.contextmanager
def reachable(operations: Mapping[str, Operation]) -> Iterator[Path]:
    """Serve requests while this is held; yield the socket's path.

    :param operations: what can be asked, by name. Each is called on a thread of its own, and
        several may be at once; what it raises as :class:`HarnessError` becomes the answer's error.
    :raises HarnessError: see :func:`socket_directory`.
    """
    path = socket_directory() / f"{os.getpid()}-{secrets.token_hex(4)}"
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        # Between bind() and listen() it would be taken for one that was left behind.
        with _short_path(path, alone=True) as name:
            listener.bind(name)
            listener.listen()
        stack.callback(path.unlink, missing_ok=True)
        server = _Server(listener, operations)
        thread = threading.Thread(target=server.run, name="control-socket", daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.stop)
        yield path


class _Server:
    """Accepts, and gives each connection a thread."""

    def __init__(self, listener: socket.socket, operations: Mapping[str, Operation]):
        self._listener = listener
        self._operations = operations
        self._places = threading.BoundedSemaphore(CLIENTS)
        self._lock = threading.Lock()
        self._stopped = False
        self._open: dict[socket.socket, threading.Thread] = {}

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # stop() shut it
                return
            if not self._places.acquire(blocking=False):
                with connection, contextlib.suppress(OSError):
                    connection.setblocking(False)
                    connection.send(b'{"error": "too many at once, try again"}\n')
                continue
            thread = threading.Thread(target=self._serve, args=[connection], daemon=True)
            with self._lock:
                if self._stopped:
                    connection.close()
                    return
                self._open[connection] = thread
                thread.start()

    def stop(self) -> None:
        """End every connection, and :meth:`run`."""
        self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._stopped = True
            open_now = dict(self._open)
        for connection in open_now:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in open_now.values():
            thread.join()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                answer = self._answer(connection)
                view = memoryview(json.dumps(answer).encode() + b"\n")
                deadline = Deadline(REQUEST_SECONDS, "a client that reads")
                while view and not deadline.expired:
                    connection.settimeout(deadline.remaining())
                    view = view[connection.send(view) :]
        finally:
            with self._lock:
                self._open.pop(connection, None)
            self._places.release()

    def _answer(self, connection: socket.socket) -> Mapping[str, object]:
        uid = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )[1]
        try:
            # Also read for a client that is refused: it may not be cut off in its request.
            line = _line(connection, REQUEST_BYTES, Deadline(REQUEST_SECONDS, "a request"))
            if uid != os.geteuid():
                log.warning("control socket: user %d was refused", uid)
                return {"error": "this belongs to another user"}
            request = json.loads(line)
            operation = request.get("op") if isinstance(request, dict) else None
        except (ValueError, RecursionError, HarnessError) as error:
            return {"error": f"no request: {error}"}
        if not isinstance(operation, str) or operation not in self._operations:
            return {"error": f"no such operation; there are {', '.join(self._operations)}"}
        try:
            return self._operations[operation]()
        except HarnessError as error:
            return {"error": str(error)}
        except Exception as error:
            log.exception("control socket: %s", operation)
            return {"error": f"{type(error).__name__}: {error}"}


def ask(path: Path, operation: str, deadline: Deadline) -> dict[str, Any]:
    """Ask a process that is reached at ``path``.

    :raises ConnectionRefusedError, FileNotFoundError: nobody listens there any more.
    :raises ProtocolError: the answer is none; carries it.
    :raises HarnessError: it was refused, with the other's words; DeadlineExpired: no answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(deadline.check())
        with _short_path(path) as name:
            connection.connect(name)
        try:
            # Who is told to come again is cut off at once: the reason is there to be read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(json.dumps({"op": operation}).encode() + b"\n")
            line = _line(connection, ANSWER_BYTES, deadline)
        except TimeoutError:
            raise deadline.error() from None
        except OSError as error:
            raise ProtocolError(f"{path}: {error.strerror}") from error
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise ProtocolError(f"{path}: not JSON: {error}", evidence=repr(line[:200])) from error
    if not isinstance(answer, dict):
        raise ProtocolError(f"{path}: not an answer", evidence=repr(line[:200]))
    if "error" in answer:
        raise HarnessError(f"{path.name}: {answer['error']}")
    return answer


def sweep() -> list[Path]:
    """Remove the names that killed processes left; return those at which somebody listens.

    :raises HarnessError: see :func:`socket_directory`.
    """
    alive = []
    for path in sorted(socket_directory().iterdir()):
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe,
            _short_path(path, alone=True) as name,
        ):
            probe.setblocking(False)
            try:
                probe.connect(name)
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
                continue
            except FileNotFoundError:
                continue
            except BlockingIOError:
                pass  # its queue is full: it lives
            alive.append(path)
    return alive


@contextlib.contextmanager
def _short_path(path: Path, *, alone: bool = False) -> Iterator[str]:
    """Hold a path to ``path`` that fits: ``sun_path`` is 108 bytes.

    :param alone: let no other process that asks for the same look at the directory meanwhile.
    :raises DeadlineExpired: another one does not let go of it.
    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if alone:
            wait_until(lambda: _try_lock(directory), Deadline(LOCK_SECONDS, f"{path.parent}"))
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _line(connection: socket.socket, limit: int, deadline: Deadline) -> bytes:
    """Return a line without its end; one that ends with the stream counts.

    :raises HarnessError: it is longer than ``limit``, or did not come in time.
    """
    received = bytearray()
    while b"\n" not in received:
        connection.settimeout(deadline.check())
        try:
            data = connection.recv(1 << 16)
        except TimeoutError:
            raise deadline.error() from None
        if not data:
            break
        received += data
        if len(received) > limit:
            raise ProtocolError(f"more than {limit} bytes")
    return bytes(received.partition(b"\n")[0])
