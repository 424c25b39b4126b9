"""An SSH server on loopback that runs commands here: a guest without a machine around it."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import threading
from collections.abc import Iterator

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from harness.guest.identity import Identity


def server_key(key: Ed25519PrivateKey) -> paramiko.Ed25519Key:
    text = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return paramiko.Ed25519Key.from_private_key(io.StringIO(text))


class Guest(paramiko.ServerInterface):
    """Accepts one key, and runs what is asked for. Silent: accepts connections and says nothing."""

    def __init__(self, identity: Identity, *, silent: bool = False):
        self._identity = identity
        self._silent = silent
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._threads = [threading.Thread(target=self._serve, name="sshd")]
        self._connection: socket.socket | None = None
        self._commands: list[subprocess.Popen[bytes]] = []
        self._threads[0].start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._connection, _ = self._listener.accept()
            if not self._silent:
                transport = paramiko.Transport(self._connection)
                self._threads.append(transport)
                transport.add_server_key(server_key(self._identity.host))
                transport.start_server(server=self)

    def vanish(self) -> None:
        """Break the connection, as a machine that is killed does."""
        if self._connection:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.vanish()
        for process in self._commands:
            process.kill()
        for thread in self._threads:
            thread.join()
        if self._connection:
            self._connection.close()

    # What paramiko asks.

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        ours = server_key(self._identity.client).asbytes()
        return AUTH_SUCCESSFUL if key.asbytes() == ours else AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        thread = threading.Thread(target=self._run, args=(channel, command), name="command")
        self._threads.append(thread)
        thread.start()
        return True

    def _run(self, channel: paramiko.Channel, command: bytes) -> None:
        with subprocess.Popen(
            ["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            self._commands.append(process)
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            output = threading.Thread(target=self._feed, args=(process, channel), name="input")
            output.start()
            # The client may have gone at any point.
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                while data := os.read(process.stdout.fileno(), 4096):
                    channel.sendall(data)
                channel.sendall_stderr(process.stderr.read())
                channel.shutdown_write()
                if (status := process.wait()) >= 0:  # a signal is not told
                    channel.send_exit_status(status)
            # The client ends its input when it was told that the command runs: until then a channel
            # that is closed would be closed ahead of that answer.
            output.join()
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                channel.close()

    def _feed(self, process: subprocess.Popen[bytes], channel: paramiko.Channel) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            while data := channel.recv(4096):
                process.stdin.write(data)
                process.stdin.flush()
        with contextlib.suppress(OSError):
            process.stdin.close()


@contextlib.contextmanager
def ssh_guest(identity: Identity, *, silent: bool = False) -> Iterator[Guest]:
    guest = Guest(identity, silent=silent)
    try:
        yield guest
    finally:
        guest.close()
