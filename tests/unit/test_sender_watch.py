"""Who sends MSI and MSI-X messages, followed through QEMU's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.qemu.trace import TraceTail
from harness.spec.interrupt import InterruptName, Store
from harness.spec.msi import Message
from harness.spec.pci import RequesterId
from harness.testbed.sender_watch import SenderWatch

OWNER, THIEF = RequesterId.of(1), RequesterId.of(2)
PATHS = {OWNER: "/proc/7/fd/30", THIEF: "/proc/7/fd/31"}
CARD, DISK, RNG = RequesterId.of(3), RequesterId.of(4), RequesterId.of(5)
POINTERS = {CARD: "0x55555e9b1fb0", RNG: "0x55555f439530"}
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

    def fires_queue(self, device: RequesterId, queue: int) -> None:
        if device == DISK:
            self.say(f"pci_nvme_irq_msix raising MSI-X IRQ vector {queue}")
        else:
            self.say(f"virtio_notify vdev {POINTERS[device]} vq {0x7F0000 + 0x98 * queue:#x}")

    def resets(self, pointer: str) -> None:
        self.say(f"virtio_set_status vdev {pointer} val 0")


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
    assert watch.sender(OTHER, None) is None
    assert watch.sender(PAIR, None) == THIEF
    assert watch.sender(PAIR, None) is None


def test_the_last_one_that_fired_a_pair_has_sent_it(log: Log, watch: SenderWatch) -> None:
    log.fires(THIEF, PAIR)  # and it was lost on its way
    log.fires(OWNER, PAIR)
    assert watch.sender(PAIR, None) == OWNER
    log.fires(OWNER, PAIR)
    log.fires(OWNER, PAIR)
    assert [watch.sender(PAIR, None) for _ in range(3)] == [OWNER, THIEF, None]


def test_what_a_remapping_unit_blocked_has_nobody_sent(log: Log, watch: SenderWatch) -> None:
    log.fires(THIEF, PAIR)
    log.blocks(OWNER, PAIR)
    log.blocks(THIEF, OTHER)
    assert watch.sender(PAIR, None) == THIEF
    log.fires(THIEF, PAIR)
    log.blocks(THIEF, PAIR)
    assert watch.sender(PAIR, None) is None


def test_what_fired_behind_a_mask_is_sent_once_when_that_is_gone(
    log: Log, watch: SenderWatch
) -> None:
    log.fires_masked(THIEF, PAIR, 3)
    log.fires_masked(THIEF, PAIR, 3)
    assert watch.sender(PAIR, None) is None
    log.unmasks(THIEF, 4)
    assert watch.sender(PAIR, None) is None
    log.unmasks(THIEF, 3)
    assert watch.sender(PAIR, None) == THIEF
    log.unmasks(THIEF, 3)
    assert watch.sender(PAIR, None) is None


def test_what_fired_behind_a_mask_is_sent_as_its_entry_is_by_then(
    log: Log, watch: SenderWatch
) -> None:
    log.fires_masked(OWNER, Message(0, 0), 3)
    log.unmasks(OWNER, 3)
    assert watch.sender(PAIR, InterruptName(Store.MSIX, 2, function=OWNER)) is None
    assert watch.sender(PAIR, InterruptName(Store.MSIX, 3, function=THIEF)) is None
    assert watch.sender(PAIR, InterruptName(Store.MSIX, 3, function=OWNER)) == OWNER


def test_the_mask_of_one_function_says_nothing_of_another(log: Log, watch: SenderWatch) -> None:
    log.line("vfio_msix_pba_enable", THIEF)
    log.fires(OWNER, PAIR)
    assert watch.sender(PAIR, None) == OWNER


@pytest.mark.parametrize("event", ["vfio_msi_disable", "vfio_msix_disable"])
def test_a_store_that_is_switched_off_sends_nothing_more(
    log: Log, watch: SenderWatch, event: str
) -> None:
    for function in (OWNER, THIEF):
        log.fires_masked(function, PAIR, 1)
    log.line(event, THIEF)
    for function in (OWNER, THIEF):
        log.unmasks(function, 1)
    assert [watch.sender(PAIR, None) for _ in range(2)] == [OWNER, None]


def test_a_source_id_that_others_have_too_is_no_sign(log: Log, watch: SenderWatch) -> None:
    shared = RequesterId.of(5)
    watch.add("/proc/7/fd/32", shared, shared=True)
    assert OWNER in watch.functions
    assert THIEF in watch.functions
    assert shared not in watch.functions


def of(device: RequesterId, index: int) -> InterruptName:
    return InterruptName(Store.MSIX, index, function=device)


@pytest.fixture
def emulated(log: Log, watch: SenderWatch) -> SenderWatch:
    """The watch, of a machine that has a network card and a disk of QEMU's as well."""
    for device, driver in ((CARD, "virtio-net-pci"), (DISK, "nvme")):
        with watch.plugging(driver, device):
            if pointer := POINTERS.get(device):
                log.resets(pointer)
    return watch


def test_an_emulated_device_that_fired_last_is_the_sender(log: Log, emulated: SenderWatch) -> None:
    for thief, owner in ((CARD, DISK), (DISK, CARD), (CARD, OWNER), (DISK, OWNER)):
        for _ in range(3):
            log.fires_queue(thief, 1)
            assert emulated.sender(PAIR, of(owner, 1)) == thief
            log.fires_queue(owner, 1) if owner != OWNER else log.fires(owner, PAIR)
            assert emulated.sender(PAIR, of(owner, 1)) == owner
            assert emulated.sender(PAIR, of(owner, 1)) is None
    assert {CARD, DISK} <= emulated.functions
    assert {CARD, DISK, OWNER} <= set(emulated.known)


def test_a_function_of_ours_with_the_pair_of_an_emulated_device_is_the_sender(
    log: Log, emulated: SenderWatch
) -> None:
    log.fires_queue(CARD, 1)
    log.fires(THIEF, PAIR)
    assert emulated.sender(PAIR, of(CARD, 1)) == THIEF
    log.fires(THIEF, PAIR)  # and it was lost on its way
    log.fires_queue(CARD, 1)
    assert emulated.sender(PAIR, of(CARD, 1)) == CARD


def test_what_an_emulated_device_fired_behind_a_mask_passes_once_for_the_same_interrupt(
    log: Log, emulated: SenderWatch
) -> None:
    for index in (1, 2):
        log.fires_queue(CARD, index)
        assert emulated.sender(PAIR, of(CARD, index)) == CARD
    log.fires_queue(CARD, 1)
    log.fires_queue(DISK, 2)  # nor is this one sent at once
    assert emulated.sender(PAIR, of(DISK, 1)) == DISK  # who else, and still none of its own
    assert emulated.sender(PAIR, of(CARD, 2)) is None
    assert [emulated.sender(PAIR, of(CARD, 1)) for _ in range(2)] == [CARD, None]


def test_a_queue_that_was_never_seen_to_send_passes_for_no_interrupt_of_another(
    log: Log, emulated: SenderWatch
) -> None:
    log.fires_queue(CARD, 1)
    assert emulated.sender(PAIR, of(CARD, 1)) == CARD
    log.fires_queue(CARD, 3)  # as Linux has it, the control queue has no vector
    log.fires_queue(DISK, 1)
    assert emulated.sender(PAIR, of(CARD, 1)) == DISK
    assert emulated.sender(PAIR, of(CARD, 1)) is None
    assert emulated.sender(PAIR, of(CARD, 2)) == CARD


@pytest.mark.parametrize(
    "line", ['qmp_enter_set_link {"name": "second", "up": false}', "virtio_net_announce_notify "]
)
def test_what_changes_a_configuration_tells_its_interrupt(
    log: Log, emulated: SenderWatch, line: str
) -> None:
    log.say(line)
    assert [emulated.sender(PAIR, of(CARD, 0)) for _ in range(2)] == [CARD, None]
    log.say(line)
    assert emulated.sender(PAIR, of(DISK, 0)) == CARD


def test_a_device_that_is_reset_sends_nothing_more(log: Log, emulated: SenderWatch) -> None:
    log.fires_queue(CARD, 1)
    assert emulated.sender(PAIR, of(CARD, 1)) == CARD
    log.fires_queue(CARD, 1)
    log.fires_queue(DISK, 1)
    log.resets(POINTERS[CARD])
    assert emulated.sender(PAIR, of(CARD, 1)) == DISK
    log.fires_queue(CARD, 2)  # its driver may have given the vectors out anew
    assert emulated.sender(PAIR, of(CARD, 1)) == CARD


def test_what_a_remapping_unit_blocked_no_emulated_device_has_sent(
    log: Log, emulated: SenderWatch
) -> None:
    log.fires_queue(CARD, 1)
    log.blocks(DISK, PAIR)
    assert emulated.sender(PAIR, of(CARD, 1)) == CARD
    log.fires_queue(CARD, 1)
    log.blocks(CARD, PAIR)
    assert emulated.sender(PAIR, of(CARD, 1)) is None


def test_a_device_of_which_nothing_is_logged_or_that_nobody_plugged_in_is_not_known(
    log: Log, emulated: SenderWatch
) -> None:
    with emulated.plugging("edu", RequesterId.of(6)):
        pass
    log.fires_queue(RNG, 0)
    assert emulated.sender(PAIR, of(CARD, 1)) is None
    assert not {RNG, RequesterId.of(6)} & {*emulated.known, *emulated.functions}


def test_two_nvme_controllers_are_refused(emulated: SenderWatch) -> None:
    with (
        pytest.raises(HarnessError, match="does not tell two NVMe controllers apart"),
        emulated.plugging("nvme", RequesterId.of(6)),
    ):
        pytest.fail("it is plugged in")


def test_a_virtio_device_that_is_not_seen_in_the_log_is_an_error(emulated: SenderWatch) -> None:
    with (
        pytest.raises(HarnessError, match="does not tell which virtio-rng-pci is"),
        emulated.plugging("virtio-rng-pci", RNG),
    ):
        pass
