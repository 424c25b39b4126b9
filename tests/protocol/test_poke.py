"""`imsh poke` as its users call it: on a device of its own, on a server's socket, and serving."""

from __future__ import annotations

import contextlib
import io
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.devices.ims_function.function import ImsFunction
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.vfio_user.server import device_server
from tests.protocol.scratch_device import ScratchDevice

BUS_MASTER = "write config 4 6 2"
UNMASKED_IMS_3 = "write bar4 0x30 0xfee00018 8, write bar4 0x38 0x55 8"


def poke(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what a call prints that ends well."""
    assert main(["poke", *words]) == 0
    return capsys.readouterr().out


def poke_wrong(capsys: pytest.CaptureFixture[str], *words: str, status: int = 64) -> str:
    """Return the error of a call that ends with a status: 64 of a typo, 2 of a peer's answer."""
    assert main(["poke", *words]) == status
    return capsys.readouterr().err


# Regions


def test_info_shows_the_regions_and_interrupts_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = poke(capsys, "info").splitlines()
    assert lines[0].split() == ["device", "494d:0001"]
    assert "bar0    0x10000 bytes, read write" in lines
    assert "msix    9 interrupts, eventfd" in lines
    assert not any(line.startswith(("bar1", "intx")) for line in lines)


def test_a_read_names_what_it_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert poke(capsys, "read", "bar0", "0x0", "4") == "bar0 0x0 ID: 0x00534d49\n"


def test_what_is_written_is_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    out = poke(capsys, "write", "bar4", "0x10", "0xfee00000", ",", "read", "bar4", "020")
    assert out == "bar4 0x10 IMS[1].address: 0xfee00000\n"


def test_a_read_of_an_odd_size_is_dumped(capsys: pytest.CaptureFixture[str]) -> None:
    assert poke(capsys, "read config 0 20").splitlines() == [
        "00000000  4d490100 00001000 01008008 00000000",
        "00000010  00000000",
    ]


def test_the_registers_are_decoded_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    out = poke(capsys, "registers", ",", "raise", "ims", "33", ",", "registers")
    before, after = out.split("event 1 on IMS 33, pending\n")
    assert "0008 IMS_CAPABILITY 0x00000800 entries=2048 mapped=0\n" in before
    assert "IMS_PENDING    none\n" in before
    assert "IMS_PENDING    33\n" in after


def test_memory_that_was_given_drives_the_work_queue(capsys: pytest.CaptureFixture[str]) -> None:
    ring = "map 0x100000 0x1000, write dma 0x100000 0x300030001 8, write dma 0x100010 0x100800 8"
    start = "write bar0 0x14 8, write bar0 0x18 0x100000, write bar0 0x10 1, write bar0 0x20 1"
    out = poke(capsys, f"{BUS_MASTER}, {UNMASKED_IMS_3}, {ring}, {start}, wait")
    assert "0xfee00018/0x0055" in out


# Interrupts


def test_a_raised_interrupt_shows_the_message_that_the_device_sent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert poke(capsys, f"{BUS_MASTER}, {UNMASKED_IMS_3}, raise ims 3").splitlines() == [
        "event 1 on IMS 3, sent",
        "DMA write 0xfee00018/0x0055: interrupt message, remappable: IRTE 85",
    ]


def test_a_compatibility_format_message_is_decoded_too(capsys: pytest.CaptureFixture[str]) -> None:
    write = "write bar4 0 0xfee01000 8, write bar4 8 0x31 8"
    out = poke(capsys, f"{BUS_MASTER}, {write}, raise ims 0")
    assert out.endswith("compatibility: APIC id 1, vector 0x31, fixed\n")


def test_a_message_that_goes_nowhere_is_refused_and_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write = "write bar4 0 0x1234 8, write bar4 8 0x31 8"
    out = poke(capsys, f"{BUS_MASTER}, {write}, raise ims 0")
    assert "event 1 on IMS 0, refused" in out
    assert "DMA write 0x1234: 31000000, refused: no memory there" in out


def test_an_interrupt_without_bus_mastering_says_how_to_turn_it_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = poke(capsys, f"{UNMASKED_IMS_3}, raise ims 3")
    assert "bus mastering is off" in out
    assert BUS_MASTER in out


def test_wired_vectors_show_their_signals(capsys: pytest.CaptureFixture[str]) -> None:
    out = poke(capsys, "irq msix 0-2 eventfd, irq msix 1-2 trigger, irq msix 0-2 off")
    assert out.splitlines() == ["msix 1: signalled", "msix 2: signalled"]


def test_a_vector_of_ours_that_is_wired_is_signalled_when_it_is_raised(
    capsys: pytest.CaptureFixture[str],
) -> None:
    enable = "write config 0x5a 0x8000 2"  # Message Control of MSI-X, which is at 0x58
    out = poke(capsys, f"{BUS_MASTER}, irq msix 1 eventfd, {enable}, raise msix 1")
    assert out.splitlines() == ["event 1 on MSIX 1, sent", "msix 1: signalled"]


def test_a_message_that_was_shown_before_the_wait_is_not_waited_for_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    raised = f"{BUS_MASTER}, {UNMASKED_IMS_3}, raise ims 3"
    assert "0xfee00018/0x0055" in poke(capsys, f"{raised}, wait")
    assert main(["poke", f"{raised}, wait, wait 0"]) == 4


def test_a_wait_in_vain_ends_as_a_time_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["poke", "wait", "0"]) == 4
    assert "a message or a signal" in capsys.readouterr().err


def test_a_reset_masks_the_entries_again(capsys: pytest.CaptureFixture[str]) -> None:
    out = poke(capsys, f"{UNMASKED_IMS_3}, reset, read bar4 0x3c")
    assert out == "bar4 0x3c IMS[3].control: 0x00000001\n"


# What is wrong is named


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reed bar0 0", "no command named 'reed'"),
        ("read bar9 0", "no region named 'bar9'"),
        ("read bar0 0xq", "'0xq' is not a number"),
        ("read bar0 08", "'08' is not a number"),
        ("read bar0 -1", "'-1' is not a number"),
        ("read bar0 0 0x100000000", "0x100000000 does not fit into 32 bits"),
        ("read bar0", "'read bar0' is not read REGION OFFSET [SIZE]"),
        ("read bar0 0 4 5", "is not read REGION OFFSET [SIZE]"),
        ("read bar0 0x10000", "Invalid argument (EINVAL)"),
        ("read dma 0", "no memory was mapped at 0x0"),
        ("write bar0 0x14 1 3", "the size is 1, 2, 4 or 8 bytes, not 3"),
        ("write bar0 0x14 256 1", "256 does not fit into 8 bits"),
        ("map 0x1000 0", "0 bytes"),
        ("irq msi 3-1 mask", "'3-1' is not a range"),
        ("irq msi 0 unwire", "no action named 'unwire'"),
        ("irq msix 9 trigger", "(EINVAL)"),
        ("raise imz 0", "no store named 'imz'"),
        ("raise msix 9", "no interrupt msix 9"),
    ],
)
def test_a_wrong_command_is_named(capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    status = 2 if "EINVAL" in said else 64  # what only the device can refuse
    assert said in poke_wrong(capsys, "--", *text.split(), status=status)


def test_nothing_behind_an_error_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["poke", "read bar0 0, read bar0 1, reed, read bar0 4"]) == 64
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["0x0", "0x1"]


# Where the commands come from


def test_a_script_on_standard_input_names_the_line_of_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("# a comment\n\nread bar0 0  # ID\nreed\n"))
    assert main(["poke"]) == 64
    said = capsys.readouterr()
    assert said.out == "bar0 0x0 ID: 0x00534d49\n"
    assert "line 4: there is no command named 'reed'" in said.err


def test_a_prompt_goes_on_behind_an_error_and_ends_with_quit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("reed\nread bar0 0\nquit\nread bar0 4\n"))
    out = poke(capsys)
    assert "no command named 'reed'" in out
    assert "0x00534d49" in out
    assert "VERSION" not in out


# Other devices and other clients


@contextlib.contextmanager
def listener(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        sock.listen()
        yield sock


def test_a_server_on_a_socket_is_driven_like_our_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "s"
    with ImsFunction() as function, listener(path) as sock, device_server(function, sock):
        out = poke(capsys, "--socket", str(path), "read bar0 0, registers")
    assert out.startswith("bar0 0x0: 0x00534d49\n0000 ID")


def test_what_is_raised_behind_a_mask_is_signalled_on_unmask(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, device: ScratchDevice
) -> None:
    path = tmp_path / "s"
    with listener(path) as sock, device_server(device, sock):
        out = poke(
            capsys,
            *("--socket", str(path)),
            "irq msix 2 eventfd, irq msix 2 mask, irq msix 2 trigger, irq msix 2 mask,"
            "read bar0 0x10, irq msix 2 unmask",
        )
    assert out.splitlines() == ["bar0 0x10: 0x00000000", "msix 2: signalled"]


def test_only_our_own_device_can_be_told_to_raise(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "s"
    with ImsFunction() as function, listener(path) as sock, device_server(function, sock):
        assert "in this process" in poke_wrong(capsys, "--socket", str(path), "raise ims 0")


def test_a_device_of_another_kind_has_no_registers_to_decode(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, other = tmp_path / "s", ImsFunctionSpec(vendor_id=0x1234)
    with ImsFunction(other) as function, listener(path) as sock, device_server(function, sock):
        said = poke_wrong(capsys, "--socket", str(path), "registers", status=2)
    assert "1234:0001 is not the IMS function" in said


def test_a_socket_that_nobody_serves_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = poke_wrong(capsys, "--socket", str(tmp_path / "none"), "info", status=2)
    assert f"cannot connect to {tmp_path / 'none'}: No such file" in said


def test_the_device_can_be_chosen_by_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "device.yaml"
    file.write_text("ims_mapped: true\nmsix_vectors: 2048\n")
    out = poke(capsys, "--device", str(file), "info")
    assert "bar4    0x8000 bytes, read write, mappable 0x0+0x8000\n" in out
    assert "msix    2048 interrupts" in out
