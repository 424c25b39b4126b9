"""Commands in the guest over SSH.

One TCP connection, one key exchange with a pinned host key, then a channel per command. Every call
is bounded by a deadline, and ends at once with the machine's own error when the machine is lost.
"""

from __future__ import annotations

import contextlib
import io
import select
import shlex
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Protocol

import paramiko

from harness.errors import GuestCommandError, GuestLost, HarnessError
from harness.guest.identity import Identity
from harness.host.deadline import Deadline

USER: Final = "root"
CONNECT_SECONDS: Final = 20.0
COMMAND_SECONDS: Final = 20.0

GRACE_SECONDS: Final = 1.0
"""How long a closed connection is given for its cause to become known."""

# The cheapest for an emulated CPU, one of each.
KEX: Final = ("curve25519-sha256@libssh.org",)
CIPHERS: Final = ("aes128-ctr",)
MACS: Final = ("hmac-sha2-256",)


class Lifeline(Protocol):
    """Whether the machine below is alive."""

    @property
    def error(self) -> HarnessError | None:
        """What the machine was lost to, None while it is alive."""

    def wait_lost(self, seconds: float) -> HarnessError | None:
        """Return the error as soon as there is one, None when there is none for so long."""

    def on_loss(self, listener: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """While held, call ``listener`` on any thread when the machine is lost."""


class GuestExit(GuestCommandError):
    """A command ended with another status than 0."""

    def __init__(self, result: Result):
        super().__init__(
            f"in the guest: {result.command}: exit status {result.status}",
            evidence=result.stderr or result.stdout,
        )
        self.result = result


@dataclass(frozen=True, slots=True)
class Result:
    """A command that has ended. Status -1: the server did not say (killed by a signal)."""

    command: str
    status: int
    stdout: str
    stderr: str


class SshSession:
    """An authenticated connection to the guest. Made by :func:`ssh_session`; one user at a time."""

    def __init__(self, transport: paramiko.Transport, lifeline: Lifeline):
        self._transport = transport
        self._lifeline = lifeline

    def run(
        self,
        command: str,
        *,
        deadline: Deadline | None = None,
        stdin: bytes = b"",
        check: bool = True,
    ) -> Result:
        """Run a command line in the guest's shell to its end.

        :raises GuestExit: it ended with another status than 0, and ``check`` is set.
        :raises DeadlineExpired: it still ran; its channel has been closed.
        :raises GuestLost: the machine was lost.
        """
        status, out, err = self._exchange(command, stdin, deadline)
        result = Result(command, status, out.decode(errors="replace"), err.decode(errors="replace"))
        if check and status:
            raise GuestExit(result)
        return result

    def put(self, data: bytes, path: str, *, mode: int = 0o644) -> None:
        """Write a file in the guest.

        :raises HarnessError: as :meth:`run`.
        """
        name = shlex.quote(str(PurePosixPath(path)))
        deadline = Deadline(COMMAND_SECONDS + len(data) / 1e6, f"the upload of {path}")
        self.run(f"cat >{name} && chmod {mode:o} {name}", stdin=data, deadline=deadline)

    def get(self, path: str) -> bytes:
        """Return the content of a file in the guest; of sizes that fit into memory.

        :raises HarnessError: as :meth:`run`.
        """
        command = f"cat {shlex.quote(str(PurePosixPath(path)))}"
        status, out, err = self._exchange(command, b"", Deadline(COMMAND_SECONDS, command))
        if status:
            raise GuestExit(Result(command, status, "", err.decode(errors="replace")))
        return out

    def _exchange(
        self, command: str, stdin: bytes, deadline: Deadline | None
    ) -> tuple[int, bytes, bytes]:
        deadline = deadline or Deadline(COMMAND_SECONDS, f"in the guest: {command}")
        with self._channel(deadline) as channel:
            self._exec(channel, command)
            try:
                _send(channel, stdin, deadline)
                channel.shutdown_write()
                out, err = _gather(channel, deadline)
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise self._error(deadline) from error
            status = channel.exit_status
            if status == -1 and (deadline.expired or not self._transport.is_active()):
                raise self._error(deadline)
            return status, out, err

    @contextlib.contextmanager
    def _channel(self, deadline: Deadline) -> Iterator[paramiko.Channel]:
        try:
            channel = self._transport.open_session(timeout=deadline.check())
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._error(deadline) from error
        try:
            yield channel
        finally:
            channel.close()

    def _exec(self, channel: paramiko.Channel, command: str) -> None:
        try:
            channel.exec_command(command)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._error(None) from error

    def _error(self, deadline: Deadline | None) -> HarnessError:
        """Return what to say about a connection that failed: the cause, as far as it is known."""
        if deadline and deadline.expired:
            return self._lifeline.error or deadline.error()
        return _cause(self._lifeline) or GuestLost("the guest closed the SSH connection")


def _gather(channel: paramiko.Channel, deadline: Deadline) -> tuple[bytes, bytes]:
    """Return both output streams, complete, once the command has ended.

    :raises DeadlineExpired: with what it has said so far.
    """
    out, err = bytearray(), bytearray()
    while True:
        # Whether it has ended is asked first: what it said before is then all there.
        ended = channel.eof_received or channel.closed
        while channel.recv_ready():
            out += channel.recv(1 << 16)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(1 << 16)
        if ended:
            # The exit status follows the end of file, or comes just before it.
            channel.status_event.wait(deadline.remaining())
            return bytes(out), bytes(err)
        # The channel's descriptor is readable when either stream is, or at the end.
        select.select([channel], [], [], deadline.remaining())
        deadline.check((out + err).decode(errors="replace"))


def _send(channel: paramiko.Channel, data: bytes, deadline: Deadline) -> None:
    view = memoryview(data)
    while view:
        channel.settimeout(deadline.check())
        view = view[channel.send(bytes(view[: 1 << 15])) :]


@contextlib.contextmanager
def ssh_session(
    address: tuple[str, int],
    identity: Identity,
    lifeline: Lifeline,
    *,
    deadline: Deadline | None = None,
) -> Iterator[SshSession]:
    """Hold a session with the guest's SSH server.

    :raises DeadlineExpired: the server did not answer in time.
    :raises GuestLost: the machine was lost, or the server let us down.
    :raises HarnessError: the server has another host key, or refuses ours.
    """
    deadline = deadline or Deadline(CONNECT_SECONDS, "the guest's SSH server")
    with contextlib.ExitStack() as stack:
        try:
            connection = socket.create_connection(address, timeout=deadline.check())
            stack.callback(connection.close)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = _transport(connection)
            stack.callback(_close, transport)
            # Ends every read on it, so that whoever waits asks why.
            stack.enter_context(lifeline.on_loss(lambda: _abort(connection)))
            # The library's own are 15 s, whatever the machine is like.
            transport.banner_timeout = transport.handshake_timeout = deadline.check()
            transport.start_client(timeout=deadline.check())
            _check_host_key(transport, identity)
            transport.auth_timeout = deadline.check()
            transport.auth_publickey(USER, _client_key(identity))
        except (paramiko.SSHException, OSError, EOFError) as error:
            if isinstance(error, paramiko.AuthenticationException) and transport.is_active():
                raise HarnessError(f"the guest refuses our key: {error}") from error
            if deadline.expired:
                raise (lifeline.error or deadline.error(str(error))) from error
            lost = GuestLost(f"no SSH session with the guest: {error}")
            raise (_cause(lifeline) or lost) from error
        yield SshSession(transport, lifeline)


def _transport(connection: socket.socket) -> paramiko.Transport:
    transport = paramiko.Transport(connection)
    options = transport.get_security_options()
    options.kex = KEX
    options.ciphers = CIPHERS
    options.digests = MACS
    options.key_types = ("ssh-ed25519",)
    return transport


def _check_host_key(transport: paramiko.Transport, identity: Identity) -> None:
    """The policy: this one key, made for this machine. Nothing is looked up or remembered."""
    if transport.get_remote_server_key().asbytes() != identity.host_blob:
        raise HarnessError(
            "the SSH server is not this machine's guest: it has another host key",
            hint="something else on this host has taken the port",
        )


def _client_key(identity: Identity) -> paramiko.Ed25519Key:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(identity.client_text))


def _cause(lifeline: Lifeline) -> HarnessError | None:
    """Return what the machine was lost to: the connection may break before the reason is told."""
    return lifeline.wait_lost(GRACE_SECONDS)


def _abort(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _close(transport: paramiko.Transport) -> None:
    transport.close()
    transport.join(5.0)
