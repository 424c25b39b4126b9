"""Who sends MSI and MSI-X messages, followed through QEMU's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.qemu.trace import TraceTail
from harness.spec.msi import Message
from harness.spec.pci import RequesterId
from harness.testbed.emulated_senders import VirtioSender
from harness.testbed.sender_watch import SenderWatch

OWNER, THIEF = RequesterId.of(1), RequesterId.of(2)
PATHS = {OWNER: "/proc/7/fd/30", THIEF: "/proc/7/fd/31"}
CARD, DISK = RequesterId.of(3), RequesterId.of(4)
DEVICE, QUEUE = "0x55558a6f0240", "0x7f0000"
PAIR, OTHER = Message(0xFCE0_0004, 1), Message(0xFCE0_0008, 2)


class Log:
    """QEMU's log, as far as it is about messages."""

    def __init__(self, path: Path):
        self.path = path

    def line(self, event: str, function: RequesterId, rest: str = "") -> None:
        self.say(f"{event}  (vfio-user:{PATHS[function]}){rest}")

    def say(self, what: str) -> None:
        with self.path.open("a") as file:
            file.write(f"2026-11-28T15:10:49.071307Z {what}\n")

    def fires(self, function: RequesterId, message: Message, vector: int = 0) -> None:
        pair = f"{message.address:#x}/{message.data:#x}"
        self.line("vfio_msi_interrupt", function, f" vector {vector} {pair}")

    def fires_masked(self, function: RequesterId, message: Message, vector: int = 0) -> None:
        self.line("vfio_msix_pba_enable", function)
        self.fires(function, message, vector)

    def unmasks(self, function: RequesterId, vector: int = 0) -> None:
        self.line("vfio_msix_vector_do_use", function, f" vector {vector} used")

    def blocks(self, function: RequesterId, message: Message) -> None:
        self.say(f"vtd_dmar_fault sid {function:#x} fault 5 addr {message.address:#x} write 1")

    def writes(self, name: str, place: int, value: int = 0) -> None:
        """Log that the guest writes to a region of the card's, or with its messages' names."""
        access = f"mr 0x55558a6e8310 addr {place:#x} value {value:#x} size 4 name '{name}'"
        self.say(f"memory_region_ops_write cpu 1 {access}")

    def fires_queue(self) -> None:
        self.say(f"virtio_notify vdev {DEVICE} vq {QUEUE}")


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "trace.log")


@pytest.fixture
def watch(log: Log) -> SenderWatch:
    watch = SenderWatch()
    for function, path in PATHS.items():
        watch.add(path, function, shared=False)
    watch.follow(TraceTail(log.path))
    return watch


def test_a_message_is_the_functions_that_fired_it_once(log: Log, watch: SenderWatch) -> None:
    log.fires(THIEF, PAIR)
    assert watch.sender(PAIR) == THIEF
    assert watch.sender(PAIR) is None
    log.fires(THIEF, PAIR)
    assert watch.sender(OTHER) is None
    assert watch.sender(PAIR) is None


def test_only_the_last_line_has_sent_anything(log: Log, watch: SenderWatch) -> None:
    log.fires(THIEF, PAIR)  # and it was lost on its way
    log.fires(OWNER, OTHER)
    assert watch.sender(PAIR) is None
    log.fires(THIEF, PAIR)
    log.writes("ioapic", 0xFEC0_0010)
    assert watch.sender(PAIR) is None
    log.fires(THIEF, PAIR)
    log.say("virtio_queue_notify vdev 0x55558b21cbc0 n 0 vq 0x55558b21d000")
    assert watch.sender(PAIR) is None


def test_the_writes_that_messages_are_end_nothing(log: Log, watch: SenderWatch) -> None:
    log.fires(THIEF, PAIR)
    log.writes("vtd-ir", 0xFEE0_0000)
    log.writes("vfio-user:/proc/11526/fd/29 BAR 4", PAIR.address, PAIR.data)
    assert watch.sender(PAIR) == THIEF


def test_what_a_remapping_unit_blocked_has_nobody_sent(log: Log, watch: SenderWatch) -> None:
    log.fires(THIEF, PAIR)
    log.blocks(OWNER, PAIR)
    log.blocks(THIEF, OTHER)
    assert watch.sender(PAIR) == THIEF
    log.fires(THIEF, PAIR)
    log.blocks(THIEF, PAIR)
    assert watch.sender(PAIR) is None


def test_what_fired_behind_a_mask_is_sent_once_when_that_is_gone(
    log: Log, watch: SenderWatch
) -> None:
    log.fires_masked(THIEF, PAIR, 3)
    log.fires_masked(THIEF, PAIR, 3)
    assert watch.sender(PAIR) is None
    log.unmasks(THIEF, 4)
    assert watch.sender(PAIR) is None
    log.unmasks(THIEF, 3)
    assert watch.sender(PAIR) == THIEF
    log.unmasks(THIEF, 3)
    assert watch.sender(PAIR) is None


def test_what_fired_behind_a_mask_is_sent_as_its_entry_is_by_then(
    log: Log, watch: SenderWatch
) -> None:
    log.fires_masked(THIEF, Message(0, 0), 3)
    log.unmasks(THIEF, 3)
    assert watch.sender(PAIR) == THIEF


def test_the_mask_of_one_function_says_nothing_of_another(log: Log, watch: SenderWatch) -> None:
    log.line("vfio_msix_pba_enable", THIEF)
    log.fires(OWNER, PAIR)
    assert watch.sender(PAIR) == OWNER


@pytest.mark.parametrize("event", ["vfio_msi_disable", "vfio_msix_disable"])
def test_a_store_that_is_switched_off_sends_nothing_more(
    log: Log, watch: SenderWatch, event: str
) -> None:
    for function in (OWNER, THIEF):
        log.fires_masked(function, PAIR, 1)
    log.line(event, THIEF)
    log.unmasks(THIEF, 1)
    assert watch.sender(PAIR) is None
    log.unmasks(OWNER, 1)
    assert watch.sender(PAIR) == OWNER


def test_a_source_id_that_others_have_too_is_no_sign(log: Log, watch: SenderWatch) -> None:
    shared = RequesterId.of(5)
    watch.add("/proc/7/fd/32", shared, shared=True)
    assert OWNER in watch.functions
    assert THIEF in watch.functions
    assert shared not in watch.functions


@pytest.fixture
def emulated(log: Log, watch: SenderWatch) -> SenderWatch:
    """The watch, of a machine that has a card of QEMU's as well: one vector, which it uses."""
    card = VirtioSender(CARD, "0x55558a6e7c80", 1, device=DEVICE)
    watch.add_emulated(card)
    log.say(f"pci_cfg_write virtio-net-pci {CARD} @0x4 <- 0x406")
    log.say(f"pci_cfg_write virtio-net-pci {CARD} @0xde <- 0x8000")
    log.say("msix_write_config dev virtio-net-pci enabled 1 masked 1")
    log.say(
        "memory_region_ops_write cpu 0 mr 0x55558a6e8860 addr 0xfd40001a value 0x0 size 2 "
        "name 'virtio-pci-common-virtio-net'"
    )
    log.say(f"virtio_queue_notify vdev {DEVICE} n 0 vq {QUEUE}")
    for number, word in enumerate((PAIR.address, 0, PAIR.data, 0)):
        log.writes("msix-table", 0xFBA0_0000 + 4 * number, word)
    return watch


def test_an_emulated_device_sends_what_its_entry_holds(log: Log, emulated: SenderWatch) -> None:
    assert CARD in emulated.functions
    assert {CARD, OWNER} <= set(emulated.known)
    for _ in range(2):
        log.fires_queue()
        assert emulated.sender(PAIR) == CARD
        assert emulated.sender(PAIR) is None
    log.fires_queue()
    assert emulated.sender(OTHER) is None


def test_who_has_the_pair_of_another_is_the_sender(log: Log, emulated: SenderWatch) -> None:
    for _ in range(2):
        log.fires(THIEF, PAIR)
        assert emulated.sender(PAIR) == THIEF
        log.fires_queue()
        assert emulated.sender(PAIR) == CARD


def test_what_an_emulated_device_holds_back_lets_nothing_pass(
    log: Log, emulated: SenderWatch
) -> None:
    log.writes("msix-table", 0xFBA0_000C, 1)
    log.fires_queue()
    assert emulated.sender(PAIR) is None
    log.fires(THIEF, PAIR)
    assert emulated.sender(PAIR) == THIEF
    log.writes("msix-table", 0xFBA0_000C, 0)
    assert [emulated.sender(PAIR) for _ in range(2)] == [CARD, None]


def test_what_a_remapping_unit_blocked_no_emulated_device_has_sent(
    log: Log, emulated: SenderWatch
) -> None:
    log.fires_queue()
    log.blocks(DISK, PAIR)
    assert emulated.sender(PAIR) == CARD
    log.fires_queue()
    log.blocks(CARD, PAIR)
    assert emulated.sender(PAIR) is None


def test_what_was_logged_before_a_device_was_plugged_in_is_not_about_it(
    log: Log, emulated: SenderWatch
) -> None:
    emulated.add_emulated(VirtioSender(CARD, "0x55558a6e7c80", 1, device=DEVICE))
    log.fires_queue()
    assert emulated.sender(PAIR) is None
