# Ref: RFC 8709 (Ed25519 in SSH); dropbear src/ed25519.c, buf_put_ed25519_priv_key
"""The keys of one machine, made for it and gone with it.

The guest gets its host key and the one client key that may log in when its SSH server is started
(``imsctl ssh``); the client pins the host key. So neither side asks, trusts or remembers anything.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

ALGORITHM = b"ssh-ed25519"


@dataclass(frozen=True, slots=True)
class Identity:
    """Host key and client key of one machine, both Ed25519, in memory only."""

    host: Ed25519PrivateKey
    client: Ed25519PrivateKey

    @property
    def host_blob(self) -> bytes:
        """The public host key as it travels in SSH."""
        return _public_blob(self.host)

    @property
    def client_blob(self) -> bytes:
        """The public client key likewise."""
        return _public_blob(self.client)

    @property
    def client_text(self) -> str:
        """The private client key as the file that ``ssh -i`` takes."""
        return self.client.private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        ).decode()

    @property
    def host_line(self) -> str:
        """The public host key as in a known_hosts file, behind the host's name."""
        return f"{ALGORITHM.decode()} {base64.b64encode(self.host_blob).decode()}"

    def server_words(self) -> dict[str, str]:
        """Return what the guest needs to start its server, as words of ``imsctl ssh``."""
        return {
            "host_key": _dropbear_private(self.host).hex(),
            "client_key": base64.b64encode(self.client_blob).decode(),
        }


def make_identity() -> Identity:
    """Return new keys."""
    return Identity(Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate())


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _public_blob(key: Ed25519PrivateKey) -> bytes:
    return _string(ALGORITHM) + _string(key.public_key().public_bytes_raw())


def _dropbear_private(key: Ed25519PrivateKey) -> bytes:
    # Dropbear keeps the private half (the seed) and the public half in one string.
    halves = key.private_bytes_raw() + key.public_key().public_bytes_raw()
    return _string(ALGORITHM) + _string(halves)
