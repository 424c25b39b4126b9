"""The keys of a machine in the forms that both sides read."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from harness.guest.identity import Identity, make_identity

# RFC 8032, section 7.1, TEST 1: secret key and public key.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")

HEADER = b"\0\0\0\x0bssh-ed25519"


def known_identity() -> Identity:
    key = Ed25519PrivateKey.from_private_bytes(SEED)
    return Identity(host=key, client=key)


def test_the_host_key_is_in_dropbears_form() -> None:
    key = bytes.fromhex(known_identity().server_words()["host_key"])
    assert key == HEADER + b"\0\0\0\x40" + SEED + PUBLIC


def test_the_public_host_key_is_in_the_form_of_the_protocol() -> None:
    assert known_identity().host_blob == HEADER + b"\0\0\0\x20" + PUBLIC


def test_the_client_key_is_what_may_log_in() -> None:
    identity = make_identity()
    line = f"ssh-ed25519 {identity.server_words()['client_key']}"
    assert load_ssh_public_key(line.encode()) == identity.client.public_key()


def test_every_machine_has_keys_of_its_own() -> None:
    assert make_identity().host_blob != make_identity().host_blob
