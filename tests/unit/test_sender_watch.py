"""Who sends MSI and MSI-X messages, followed through QEMU's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.devices.ims_function.config import config_space
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.pci.config_space import ConfigSpace
from harness.qemu.trace import LogTail
from harness.spec.ims_function import BAR_MSIX, MSIX_TABLE_OFFSET
from harness.spec.msi import Message
from harness.spec.pci import (
    CapabilityId,
    Command,
    Header,
    MsiControl,
    RequesterId,
    msi_offsets,
)
from harness.testbed.emulated_senders import VirtioSender
from harness.testbed.sender_watch import SenderWatch

OWNER, THIEF = RequesterId.of(1), RequesterId.of(2)
PATHS = {OWNER: "/proc/7/fd/30", THIEF: "/proc/7/fd/31"}
CARD, DISK = RequesterId.of(3), RequesterId.of(4)
DEVICE, QUEUE = "0x55558a6f0240", "0x7f0000"
PAIR, OTHER = Message(0xFCE0_0004, 1), Message(0xFCE0_0008, 2)


BAR = 0xFD00_0000
"""Of the functions of ours, where the MSI-X table is."""


def config() -> ConfigSpace:
    """Return the config space of a function of ours, before it is plugged in."""
    return config_space(ImsFunctionSpec(msi_64bit=True, msi_per_vector_mask=True))


class Log:
    """QEMU's log, as far as it is about messages, and its complaints."""

    def __init__(self, directory: Path):
        self.trace = directory / "trace.log"
        self.errors = directory / "qemu.log"
        self._micros = 0

    def line(self, event: str, function: RequesterId, rest: str = ")") -> None:
        self.say(f"{event}  (vfio-user:{PATHS[function]}{rest}")

    def say(self, what: str) -> None:
        self._add(self.trace, what)

    def complain(self) -> None:
        self._add(self.errors, "qemu-system-x86_64: failed to read header: EOF")

    def _add(self, log: Path, what: str) -> None:
        self._micros += 1
        with log.open("a") as file:
            file.write(f"2026-11-28T15:10:49.{self._micros:06}Z {what}\n")

    def config(self, function: RequesterId, offset: int, value: int, size: int = 2) -> None:
        place = f", @{offset:#x}, {value:#x}, len={size:#x})"
        self.line("vfio_pci_write_config", function, place)

    def master(self, function: RequesterId, *, on: bool) -> None:
        command = Command(memory_space=1, bus_master=int(on))
        self.config(function, Header.COMMAND, command.value)

    def msi(self, function: RequesterId, name: str, value: int) -> None:
        offset, size = msi_offsets(address_64bit=True, per_vector_mask=True)[name]
        place = config().capabilities[CapabilityId.MSI].offset + offset
        self.config(function, place, value, size)

    def fires(self, function: RequesterId, message: Message, vector: int = 0) -> None:
        pair = f"{message.address:#x}/{message.data:#x}"
        self.line("vfio_msi_interrupt", function, f") vector {vector} {pair}")

    def fires_masked(self, function: RequesterId, message: Message, vector: int = 0) -> None:
        self.line("vfio_msix_pba_enable", function)
        self.fires(function, message, vector)

    def unmasks(self, function: RequesterId, vector: int = 0) -> None:
        self.line("vfio_msix_vector_do_use", function, f") vector {vector} used")

    def blocks(self, function: RequesterId, message: Message) -> None:
        self.say(f"vtd_dmar_fault sid {function:#x} fault 5 addr {message.address:#x} write 1")

    def writes(self, name: str, place: int, value: int = 0) -> None:
        """Log that the guest writes to a region of the card's, or with its messages' names."""
        access = f"mr 0x55558a6e8310 addr {place:#x} value {value:#x} size 4 name '{name}'"
        self.say(f"memory_region_ops_write cpu 1 {access}")

    def answers(self, queue: str = QUEUE) -> None:
        """Log that QEMU has put an answer into the card's queue, which it does for a sound one."""
        self.say(f"virtqueue_flush vq {queue} count 1")

    def fires_queue(self) -> None:
        self.say(f"virtio_notify vdev {DEVICE} vq {QUEUE}")


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


@pytest.fixture
def watch(log: Log) -> SenderWatch:
    watch = SenderWatch()
    watch.follow(LogTail(log.trace), LogTail(log.errors))
    for function, path in PATHS.items():
        watch.add(path, function, config(), shared=False)
        log.config(function, Header.BAR0 + 4 * BAR_MSIX, bar(function), 4)
        log.master(function, on=True)
    return watch


def bar(function: RequesterId) -> int:
    """Return where the guest has placed the BAR of its MSI-X table."""
    return BAR + function.bus * 0x10_0000


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
    entry = bar(THIEF) + MSIX_TABLE_OFFSET + 16 * 3
    log.fires_masked(THIEF, Message(0, 0), 3)
    for number, word in enumerate((PAIR.address, 0, PAIR.data, 0)):
        log.writes("msix-table", entry + 4 * number, word)
        log.writes("msix-table", entry - bar(THIEF) + bar(OWNER) + 4 * number, 7)
    log.unmasks(THIEF, 3)
    assert [watch.sender(PAIR) for _ in range(2)] == [THIEF, None]

    log.fires_masked(THIEF, PAIR, 3)
    log.writes("msix-table", entry + 8, OTHER.data)
    log.unmasks(THIEF, 3)
    assert watch.sender(PAIR) is None


def test_a_function_that_may_not_send_sends_nothing(log: Log, watch: SenderWatch) -> None:
    log.master(THIEF, on=False)
    log.fires(THIEF, PAIR)
    assert watch.sender(PAIR) is None
    log.fires_masked(THIEF, PAIR, 3)
    log.unmasks(THIEF, 3)
    assert watch.sender(PAIR) is None
    log.master(THIEF, on=True)
    log.unmasks(THIEF, 3)
    assert watch.sender(PAIR) is None  # it was dropped
    log.fires(THIEF, PAIR)
    assert watch.sender(PAIR) == THIEF


def test_what_msi_holds_back_is_sent_when_its_mask_bit_is_cleared(
    log: Log, watch: SenderWatch
) -> None:
    log.msi(THIEF, "address_low", PAIR.address)
    log.msi(THIEF, "data", PAIR.data)
    log.msi(THIEF, "control", MsiControl(enable=1, multiple_message_enable=1).value)
    log.msi(THIEF, "mask", 0b11)
    assert PAIR.data & 1
    for vector in (0, 1):
        log.fires(THIEF, PAIR, vector)
        assert watch.sender(PAIR) is None
    log.msi(THIEF, "address_low", PAIR.address)
    assert watch.sender(PAIR) is None
    log.msi(THIEF, "mask", 0b01)
    assert [watch.sender(PAIR) for _ in range(2)] == [THIEF, None]
    log.msi(THIEF, "mask", 0)
    assert watch.sender(PAIR) is None  # its last bit says which of the two it is
    log.fires(THIEF, PAIR, 1)
    assert watch.sender(PAIR) == THIEF


def test_what_msi_holds_back_is_forgotten_with_what_it_is_granted_no_more(
    log: Log, watch: SenderWatch
) -> None:
    log.msi(THIEF, "address_low", PAIR.address)
    log.msi(THIEF, "data", PAIR.data)
    log.msi(THIEF, "mask", 0b10)
    log.msi(THIEF, "control", MsiControl(enable=1, multiple_message_enable=1).value)
    log.fires(THIEF, PAIR, 1)
    log.msi(THIEF, "control", MsiControl(enable=1).value)
    log.msi(THIEF, "control", MsiControl(enable=1, multiple_message_enable=1).value)
    log.fires(OWNER, PAIR, 1)
    log.msi(THIEF, "mask", 0)
    assert watch.sender(PAIR) is None

    log.msi(THIEF, "mask", 0b10)
    log.fires(THIEF, PAIR, 1)
    log.line("vfio_msi_disable", THIEF)
    log.msi(THIEF, "mask", 0)
    assert watch.sender(PAIR) is None


def test_a_function_that_was_there_before_begins_as_it_is(log: Log) -> None:
    watch, there = SenderWatch(), config()
    watch.add(PATHS[THIEF], THIEF, there, shared=False)
    there.write(Header.COMMAND, Command(bus_master=1).value.to_bytes(2, "little"))
    watch.follow(LogTail(log.trace), LogTail(log.errors))
    there.reset()  # one of its own is none of what QEMU has
    log.fires(THIEF, PAIR)
    assert watch.sender(PAIR) == THIEF


def test_a_write_that_qemu_serves_without_its_lock_ends_nothing(
    log: Log, watch: SenderWatch
) -> None:
    log.fires(THIEF, PAIR)
    log.writes("hpet", 0xFED0_0108)
    assert watch.sender(PAIR) == THIEF


def test_the_mask_of_one_function_says_nothing_of_another(log: Log, watch: SenderWatch) -> None:
    log.line("vfio_msix_pba_enable", THIEF)
    log.fires(OWNER, PAIR)
    assert watch.sender(PAIR) == OWNER


def test_a_store_that_is_switched_off_sends_nothing_more(log: Log, watch: SenderWatch) -> None:
    for function in (OWNER, THIEF):
        log.fires_masked(function, PAIR, 1)
    log.line("vfio_msix_disable", THIEF)
    log.unmasks(THIEF, 1)
    assert watch.sender(PAIR) is None
    log.unmasks(OWNER, 1)
    assert watch.sender(PAIR) == OWNER


def test_a_source_id_that_others_have_too_is_no_sign(log: Log, watch: SenderWatch) -> None:
    shared = RequesterId.of(5)
    watch.add("/proc/7/fd/32", shared, config(), shared=True)
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


def test_a_complaint_of_qemus_puts_emulated_devices_in_doubt(
    log: Log, emulated: SenderWatch
) -> None:
    log.complain()
    log.answers("0x7f1111")  # of another's
    log.fires_queue()
    assert emulated.sender(PAIR) is None
    log.answers()
    log.fires_queue()
    assert emulated.sender(PAIR) == CARD
    log.answers()
    log.complain()
    log.fires_queue()
    assert emulated.sender(PAIR) is None
    log.say(f"virtio_set_status vdev {DEVICE} val 0")  # but then its queue has no vector, either
    log.fires(OWNER, PAIR)
    log.complain()
    assert emulated.sender(PAIR) == OWNER


def test_a_complaint_without_a_date_may_have_come_at_any_time(
    log: Log, emulated: SenderWatch
) -> None:
    log.answers()
    log.errors.write_text("without a date\n")
    log.fires_queue()
    assert emulated.sender(PAIR) is None
