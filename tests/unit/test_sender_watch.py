"""Who sends MSI and MSI-X messages, followed through QEMU's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.qemu.trace import TraceTail
from harness.spec.interrupt import InterruptName, Store
from harness.spec.msi import Message
from harness.spec.pci import RequesterId
from harness.testbed.sender_watch import SenderWatch

OWNER, THIEF = RequesterId.of(1), RequesterId.of(2)
PATHS = {OWNER: "/proc/7/fd/30", THIEF: "/proc/7/fd/31"}
PAIR, OTHER = Message(0xFCE0_0004, 1), Message(0xFCE0_0008, 2)


class Log:
    """QEMU's log, as far as it is about messages."""

    def __init__(self, path: Path):
        self.path = path

    def line(self, event: str, function: RequesterId, rest: str = "") -> None:
        with self.path.open("a") as file:
            stamp = "2026-11-28T15:10:49.071307Z"
            file.write(f"{stamp} {event}  (vfio-user:{PATHS[function]}){rest}\n")

    def fires(self, function: RequesterId, message: Message, vector: int = 0) -> None:
        pair = f"{message.address:#x}/{message.data:#x}"
        self.line("vfio_msi_interrupt", function, f" vector {vector} {pair}")

    def fires_masked(self, function: RequesterId, message: Message, vector: int = 0) -> None:
        self.line("vfio_msix_pba_enable", function)
        self.fires(function, message, vector)

    def unmasks(self, function: RequesterId, vector: int = 0) -> None:
        self.line("vfio_msix_vector_do_use", function, f" vector {vector} used")

    def blocks(self, function: RequesterId, message: Message) -> None:
        with self.path.open("a") as file:
            what = f"sid {function:#x} fault 5 addr {message.address:#x} write 1"
            file.write(f"2026-11-28T15:10:49.071307Z vtd_dmar_fault {what}\n")


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
