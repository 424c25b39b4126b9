"""`imsh poke --serve`: one device on a socket, for one client after another.

While a client is served the next one is refused at once: it is connected and cut off. A client that
does not negotiate holds the place for ``HELLO_SECONDS``. What is said on the way is dropped when
nobody reads it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import select
import shlex
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from harness.devices.ims_function.function import ImsFunction
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.errors import DeadlineExpired, LaunchError
from harness.host.deadline import Deadline
from harness.host.signals import Interrupted
from harness.vfio_user.server import device_server

HELLO_SECONDS: Final = 10.0
"""How long a client may take to negotiate."""
LAST_WORDS_SECONDS: Final = 5.0
"""How long the messages of a client that has gone may take."""

_LONGEST_POLL: Final = (1 << 31) - 1  # ms; a C int


def serve(spec: ImsFunctionSpec, path: str) -> None:
    """Serve a device until a signal comes; the socket is removed then.

    :raises LaunchError: the place is taken, or cannot be used.
    :raises Exception: what the device raised: a bug in it.
    """
    with contextlib.ExitStack() as stack:
        function = stack.enter_context(ImsFunction(spec))
        listener = stack.enter_context(_listening(path))
        stack.enter_context(contextlib.suppress(Interrupted))
        place = {"type": "unix", "path": os.path.abspath(path)}
        device = json.dumps({"driver": "vfio-user-pci", "socket": place})
        _say(f"serving the IMS function on {path}, one client at a time; interrupt to end")
        _say(f"for QEMU: -device {shlex.quote(device)}")
        for number in itertools.count(1):
            connection, _ = listener.accept()
            _say(f"client {number} has come")
            _serve_client(function, connection, listener)
            _say(f"client {number} has gone")


def _serve_client(
    function: ImsFunction, connection: socket.socket, listener: socket.socket
) -> None:
    """Serve a client until it goes, or has not negotiated in time; refuse every other."""
    hello = Deadline(HELLO_SECONDS, "the client's proposal of a version")
    refused = 0
    # The server closes the connection when it likes: what is watched is a descriptor of our own.
    with connection.dup() as watched, device_server(function, connection) as server:
        poll = select.poll()
        poll.register(watched, select.POLLRDHUP)
        poll.register(listener, select.POLLIN)
        while server.negotiated or not hello.expired:
            left = None if server.negotiated else min(hello.remaining() * 1000 + 1, _LONGEST_POLL)
            ready = [fd for fd, _ in poll.poll(left)]
            if watched.fileno() in ready:
                with contextlib.suppress(DeadlineExpired):
                    server.wait_until_gone(Deadline(LAST_WORDS_SECONDS, "the client's end"))
                return
            if listener.fileno() in ready:
                listener.accept()[0].close()
                refused += 1
                if refused == 1:
                    _say("another client was refused")
        _say(f"nothing was negotiated in {hello.seconds:.0f} s")


# The socket


@contextlib.contextmanager
def _listening(path: str) -> Iterator[socket.socket]:
    """Hold a socket that listens at a path, which nobody else has; the path is removed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            with _locked(os.path.dirname(path) or "."):
                _bind(listener, path)
                listener.listen()
                ours = os.lstat(path)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise LaunchError(
                f"cannot serve on {path}: {error.strerror or error}",
                hint="somebody serves there, or it is no socket" if taken else None,
            ) from error
        try:
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.lstat(path), ours):
                    os.unlink(path)


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Hold the lock of a directory: two that find the same dead socket shall not both take it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _bind(listener: socket.socket, path: str) -> None:
    try:
        listener.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _is_dead(path):
            raise
        Path(path).unlink()
        listener.bind(path)


def _is_dead(path: str) -> bool:
    """Whether this is a socket that nobody has open any more: its server was killed."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    # Of another type than a server's, so that a living one answers EPROTOTYPE and notices nothing.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _say(text: str) -> None:
    """Print a line, if that does not mean to wait for somebody to read those before it."""
    try:
        fd = sys.stdout.fileno()
    except OSError:  # it is no file, but held in memory
        print(text)
        return
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if poll.poll(0) == [(fd, select.POLLOUT)]:
        print(text, flush=True)
