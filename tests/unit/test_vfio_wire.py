"""The vfio-user codec against bytes written down from the specification's tables."""

from __future__ import annotations

import pytest

from harness.errors import ProtocolError
from harness.spec.vfio import Command, MessageFlags
from harness.vfio_user import wire
from harness.vfio_user.device import MappableArea
from harness.vfio_user.transcript import describe
from harness.vfio_user.wire import Capabilities, WireMessage


def test_a_message_is_a_header_of_16_bytes_and_its_payload() -> None:
    message = WireMessage(0x1234, Command.DEVICE_RESET, MessageFlags.NO_REPLY, b"\xaa", 5)
    assert message.pack().hex(" ", -4) == "34120d00 11000000 10000000 05000000 aa"


@pytest.mark.parametrize(
    ("payload", "raw"),
    [
        (wire.Version(1, 2), "01000200"),
        (
            wire.DmaMap(32, 3, 0x1000, 0x1122334455667788, 0x2000),
            "20000000 03000000 0010000000000000 8877665544332211 0020000000000000",
        ),
        (
            wire.DmaUnmap(24, 2, 0x1000, 0x2000),
            "18000000 02000000 0010000000000000 0020000000000000",
        ),
        (wire.DeviceInfo(16, 3, 9, 5), "10000000 03000000 09000000 05000000"),
        (
            wire.RegionInfo(32, 7, 2, 32, 0x4000, 0x1000),
            "20000000 07000000 02000000 20000000 0040000000000000 0010000000000000",
        ),
        (wire.RegionIoFds(16, 0, 2, 0), "10000000 00000000 02000000 00000000"),
        (wire.IrqInfo(16, 9, 2, 64), "10000000 09000000 02000000 40000000"),
        (wire.IrqSet(20, 0x24, 2, 1, 3), "14000000 24000000 02000000 01000000 03000000"),
        (wire.RegionAccess(0x10, 7, 4), "1000000000000000 07000000 04000000"),
        (wire.DmaAccess(0xFEE00018, 4), "1800e0fe00000000 0400000000000000"),
        (wire.WriteCount(3), "0300000000000000"),
        (
            wire.SingleWrite(0x10, 2, 2, b"\xaa\xbb" + bytes(6)),
            "1000000000000000 02000000 02000000 aabb000000000000",
        ),
        (wire.CapabilityHeader(1, 2, 0x40), "0100 0200 40000000"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, wire.Payload) else "",
)
def test_a_payload_stands_as_specified(payload: wire.Payload, raw: str) -> None:
    assert payload.pack() == bytes.fromhex(raw)
    assert type(payload).unpack(bytes.fromhex(raw)) == payload


def test_a_payload_of_another_size_is_refused() -> None:
    for size in (0, 15, 17):
        with pytest.raises(ProtocolError, match=f"16 bytes, not {size}"):
            wire.DeviceInfo.unpack(bytes(size))


def test_a_head_leaves_what_follows_it() -> None:
    assert wire.WriteCount.unpack_head(bytes(8) + b"rest") == (wire.WriteCount(0), b"rest")
    with pytest.raises(ProtocolError, match="at least 8 bytes, not 7"):
        wire.WriteCount.unpack_head(bytes(7))


SPARSE = "01000100 00000000 02000000 00000000 " + (
    "0010000000000000 0020000000000000 0050000000000000 0010000000000000"
)
AREAS = (MappableArea(0x1000, 0x2000), MappableArea(0x5000, 0x1000))


def test_a_sparse_mmap_capability_stands_as_specified() -> None:
    assert wire.pack_sparse_mmap(AREAS) == bytes.fromhex(SPARSE)


def test_a_sparse_mmap_capability_is_found_behind_another() -> None:
    other = wire.CapabilityHeader(2, 1, 44).pack() + bytes(4)
    reply = bytes(32) + other + bytes.fromhex(SPARSE)
    assert wire.unpack_sparse_mmap(reply, 32) == AREAS
    assert wire.unpack_sparse_mmap(reply, 0) is None


@pytest.mark.parametrize(
    ("reply", "offset"),
    [
        pytest.param(bytes(32), 32, id="offset at the end"),
        pytest.param(bytes(32) + wire.CapabilityHeader(2, 1, 32).pack(), 32, id="a circle"),
        pytest.param(bytes(32) + bytes.fromhex(SPARSE)[:12], 32, id="cut in the head"),
        pytest.param(bytes(32) + bytes.fromhex(SPARSE)[:-1], 32, id="cut in the last area"),
    ],
)
def test_a_broken_capability_chain_is_refused(reply: bytes, offset: int) -> None:
    with pytest.raises(ProtocolError):
        wire.unpack_sparse_mmap(reply, offset)


def test_capabilities_default_to_what_the_protocol_says_of_a_silent_peer() -> None:
    silent = Capabilities.unpack(b"")
    assert silent.max_msg_fds == 1
    assert silent.max_data_xfer_size == 1048576
    assert silent.max_dma_maps == 65535
    assert silent.pgsizes == 4096
    assert not silent.write_multiple


def test_capabilities_survive_the_wire() -> None:
    sent = Capabilities(8, 4096, 100, 0x201000, True)
    got = Capabilities.unpack(sent.pack())
    assert got.pack() == sent.pack()
    assert got.named == {"max_msg_fds", "write_multiple", *Capabilities.NUMBERS}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            WireMessage(3, Command.REGION_READ, 0, wire.RegionAccess(0x20, 7, 4).pack()),
            "0003 REGION_READ offset=0x20 region=7 count=4",
        ),
        (
            WireMessage(3, Command.REGION_READ).error_reply(22),
            "0003 REGION_READ reply error=EINVAL",
        ),
        (WireMessage(3, 99, 0x10, b"\1\2"), "0003 command 99 data=0102 (no reply)"),
        (WireMessage(3, Command.REGION_READ, 0, b"\1"), "0003 REGION_READ data=01"),
        (
            WireMessage(3, Command.DEVICE_RESET, 0, b"", 0, [5, 6], True),
            "0003 DEVICE_RESET fds=2 (fds lost)",
        ),
        (WireMessage(3, 1, 1 | 0x20, b"", 4000), "0003 VERSION reply error=4000"),
    ],
)
def test_a_message_is_described_decoded(message: WireMessage, text: str) -> None:
    assert describe(message) == text


def test_a_description_is_bounded() -> None:
    data = wire.RegionAccess(0, 0, 1 << 20).pack() + bytes(1 << 20)
    text = describe(WireMessage(0, Command.REGION_WRITE, 0, data))
    assert text.endswith("00... 1048576 bytes")
    assert len(text) < 200
