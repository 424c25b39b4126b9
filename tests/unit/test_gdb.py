"""The client of QEMU's gdb stub, against peers that do not do their part."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from harness.errors import DeadlineExpired, ProtocolError
from harness.host.deadline import Deadline
from harness.qemu.gdb import StoppedGuest


@contextlib.contextmanager
def stub(answers: bytes, *, hang_up: bool = False) -> Iterator[tuple[StoppedGuest, socket.socket]]:
    """Hold a client whose peer has answered already, whatever is asked."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(answers)
        if hang_up:
            theirs.shutdown(socket.SHUT_WR)
        yield StoppedGuest(ours, Deadline(0.2, "the stub")), theirs


def packet(body: bytes) -> bytes:
    return b"$%b#%02x" % (body, sum(body) % 256)


def test_memory_is_read_and_every_answer_acknowledged() -> None:
    with stub(b"+" + packet(b"0f1f4400")) as (guest, peer):
        assert guest.read(0xFFFF_FFFF_8100_0000, 4) == bytes.fromhex("0f1f4400")
        assert peer.recv(100) == packet(b"mffffffff81000000,4") + b"+"


def test_a_large_piece_is_read_in_packets() -> None:
    with stub(packet(b"aa" * 0x400) + packet(b"bb" * 2)) as (guest, _):
        assert guest.read(0x1000, 0x402) == b"\xaa" * 0x400 + b"\xbb" * 2


def test_memory_is_written() -> None:
    with stub(packet(b"OK")) as (guest, peer):
        guest.write(0x1000, b"\x90\x90")
        assert peer.recv(100) == packet(b"M1000,2:9090") + b"+"


@pytest.mark.parametrize("answer", [b"E14", b"", b"0f", b"0f1f44zz"])
def test_an_address_without_memory_is_named(answer: bytes) -> None:
    with stub(packet(answer)) as (guest, _), pytest.raises(ProtocolError, match="0x1000"):
        guest.read(0x1000, 4)


def test_a_refused_write_is_named() -> None:
    with stub(packet(b"E14")) as (guest, _), pytest.raises(ProtocolError, match="0x1000"):
        guest.write(0x1000, b"\x90")


def test_a_damaged_answer_is_not_taken() -> None:
    with stub(b"$9090#00") as (guest, _), pytest.raises(ProtocolError, match="damaged"):
        guest.read(0x1000, 2)


def test_an_answer_without_end_is_given_up() -> None:
    with stub(b"$" + b"90" * 0x3000) as (guest, _), pytest.raises(ProtocolError, match="no end"):
        guest.read(0x1000, 2)


def test_a_stub_that_hangs_up_is_named() -> None:
    with stub(b"$90", hang_up=True) as (guest, _), pytest.raises(ProtocolError, match="hung up"):
        guest.read(0x1000, 1)


def test_a_silent_stub_is_a_time_out() -> None:
    with stub(b"+") as (guest, _), pytest.raises(DeadlineExpired, match="the stub"):
        guest.read(0x1000, 1)
