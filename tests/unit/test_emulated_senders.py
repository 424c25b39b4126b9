"""What QEMU's log tells of the messages of devices that it emulates."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.spec.msi import Message
from harness.spec.pci import RequesterId
from harness.testbed.emulated_senders import EmulatedSender, NvmeSender, VirtioSender

CARD, DISK = RequesterId.of(3), RequesterId.of(4)
OBJECT = {CARD: 0x5555_8A6E_7C80, DISK: 0x5555_8AE4_9600}
DEVICE, QUEUE = "0x55558a6f0240", 0x7F0000
VECTORS = 4
RING_SIZE = 0x98


class Guest:
    """What a guest writes to a device, and what that fires, as QEMU (11.1.3) logs it."""

    def __init__(self, sender: EmulatedSender):
        self.sender = sender
        self.own = OBJECT[sender.requester]

    def says(self, line: str) -> list[Message]:
        event, _, text = line.partition(" ")
        return self.sender.take(event, text)

    def writes(self, name: str, region: int, offset: int, value: int) -> list[Message]:
        access = f"mr {self.own + region:#x} addr {0xFBA0_2000 + offset:#x} value {value:#x}"
        return self.says(f"memory_region_ops_write cpu 1 {access} size 4 name '{name}'")

    def table(self, offset: int, value: int) -> list[Message]:
        return self.writes("msix-table", 0x690, offset, value)

    def common(self, offset: int, value: int) -> list[Message]:
        return self.writes("virtio-pci-common-virtio-net", 0xBE0, offset, value)

    def config(self, offset: int, value: int, *, of: RequesterId | None = None) -> list[Message]:
        place = f"{of or self.sender.requester} @{offset:#x} <- {value:#x}"
        return self.says(f"pci_cfg_write virtio-net-pci {place}")

    def control(self, value: int, offset: int = 0xDE) -> list[Message]:
        assert self.config(offset, value) == []
        return self.says("msix_write_config dev virtio-net-pci enabled 1 masked 1")

    def resets(self) -> None:
        assert (
            self.says(f"resettable_phase_hold_exec obj={self.own:#x}(virtio-net-pci) method=1")
            == []
        )

    def sets_up(self) -> None:
        """Enable MSI-X, bus mastering and every entry."""
        self.config(0x04, 0x406)
        for vector in range(VECTORS):
            for number, word in enumerate((message(vector).address, 0, message(vector).data, 0)):
                self.table(16 * vector + 4 * number, word)
        self.control(0x8003)


def message(vector: int) -> Message:
    return Message(0xFCE0_0000 + 4 * vector, 0x100 + vector)


class Card(Guest):
    def __init__(self) -> None:
        names = ("stock", "second")
        super().__init__(VirtioSender(CARD, hex(OBJECT[CARD]), VECTORS, device=DEVICE, names=names))

    def gives(self, queue: int, vector: int) -> None:
        self.common(0x16, queue)
        self.common(0x1A, vector)

    def kicks(self, queue: int) -> None:
        ring = QUEUE + RING_SIZE * queue
        assert self.says(f"virtio_queue_notify vdev {DEVICE} n {queue} vq {ring:#x}") == []

    def fires(self, queue: int, device: str = DEVICE) -> list[Message]:
        return self.says(f"virtio_notify vdev {device} vq {QUEUE + RING_SIZE * queue:#x}")

    def status(self, value: int) -> None:
        assert self.says(f"virtio_set_status vdev {DEVICE} val {value}") == []

    def link(self, *, up: bool, name: str = "second") -> list[Message]:
        word = "true" if up else "false"
        sent = self.says(f'qmp_enter_set_link {{"name": "{name}", "up": {word}}}')
        assert self.says("qmp_exit_set_link {} 1") == []
        return sent


@pytest.fixture
def card() -> Card:
    """A card whose configuration, receive and transmit queues have vectors 0, 1 and 2."""
    card = Card()
    card.sets_up()
    card.common(0x10, 0)
    for queue in (0, 1):
        card.gives(queue, queue + 1)
        card.kicks(queue)
    card.status(15)
    return card


def test_a_queue_sends_what_the_entry_of_its_vector_holds(card: Card) -> None:
    assert [card.fires(queue) for queue in (0, 1)] == [[message(1)], [message(2)]]
    card.gives(0, 3)
    assert card.fires(0) == [message(3)]
    assert card.fires(0, device="0x55558b21cbc0") == []


def test_a_queue_without_a_vector_and_one_that_was_never_notified_send_nothing(card: Card) -> None:
    card.kicks(2)
    assert card.fires(2) == []  # as Linux has it, the control queue has none
    card.gives(1, 0xFFFF)
    assert card.fires(1) == []
    card.gives(3, 3)
    assert card.fires(3) == []
    card.gives(0, VECTORS)  # QEMU takes it for none
    assert card.fires(0) == []


def test_a_queue_that_is_reset_has_no_vector(card: Card) -> None:
    card.common(0x16, 1)
    card.common(0x3A, 1)
    assert card.fires(1) == []
    assert card.fires(0) == [message(1)]


def test_a_queue_that_there_cannot_be_is_not_selected(card: Card) -> None:
    card.common(0x16, 1)
    card.common(0x16, 1024)
    card.common(0x1A, 3)
    assert card.fires(1) == [message(3)]


def test_a_device_whose_driver_ends_it_sends_nothing_more(card: Card) -> None:
    card.status(0)
    assert card.fires(0) == card.fires(1) == []
    card.common(0x1A, 2)  # the first queue is selected
    assert card.fires(0) == [message(2)]


def test_the_entry_is_masked(card: Card) -> None:
    card.table(16 + 12, 1)
    assert card.fires(0) == []
    assert card.table(32 + 12, 1) == []
    assert card.table(16 + 12, 0) == [message(1)]


@pytest.mark.parametrize(
    ("offset", "masked", "unmasked"),
    [(0xDE, 0xC003, 0x8003), (0xDC, 0xC003_0011, 0x8003_0011), (0xDF, 0xC0, 0x80)],
)
def test_the_function_is_masked_by_a_word_a_dword_or_a_byte(
    card: Card, offset: int, masked: int, unmasked: int
) -> None:
    card.control(masked, offset)
    assert card.fires(0) == card.fires(1) == []
    assert card.control(unmasked, offset) == [message(1), message(2)]


def test_the_control_of_another_device_changes_nothing(card: Card) -> None:
    card.config(0xDE, 0x8003)
    card.config(0xDE, 0, of=DISK)
    assert card.says("msix_write_config dev nvme enabled 0 masked 0") == []
    assert card.fires(0) == [message(1)]


def test_a_device_that_is_no_bus_master_sends_nothing(card: Card) -> None:
    card.config(0x04, 0x402)
    assert card.fires(0) == []
    card.config(0x04, 0x6, of=DISK)
    assert card.fires(0) == []
    card.config(0x04, 0x6)
    assert card.fires(0) == [message(1)]


def test_a_device_that_is_reset_is_as_after_power_on(card: Card) -> None:
    card.says("resettable_phase_hold_exec obj=0x5555deadbee0(virtio-net-pci) method=1")
    assert card.fires(0) == [message(1)]
    card.resets()
    assert card.fires(0) == []
    card.config(0x04, 0x6)
    card.control(0x8003)
    assert card.fires(0) == []


@pytest.mark.parametrize("region", [-0x1000, 0x1000])
def test_the_table_of_another_device_changes_nothing(card: Card, region: int) -> None:
    assert card.writes("msix-table", region, 16 + 12, 1) == []
    assert card.fires(0) == [message(1)]


def test_a_cable_that_is_pulled_fires_the_interrupt_of_the_configuration(card: Card) -> None:
    assert card.link(up=True) == []
    assert card.link(up=False) == [message(0)]
    assert card.link(up=False) == []
    assert card.link(up=True, name="another") == []
    assert card.link(up=True, name="stock") == [message(0)]
    card.status(3)
    assert card.link(up=False) == []  # there is no driver to be told
    card.common(0x10, 0xFFFF)
    card.status(15)
    assert card.link(up=True) == []


class Disk(Guest):
    def __init__(self) -> None:
        super().__init__(NvmeSender(DISK, hex(OBJECT[DISK]), VECTORS))

    def fires(self, vector: int) -> list[Message]:
        return self.says(f"pci_nvme_irq_msix raising MSI-X IRQ vector {vector}")

    def starts(self) -> None:
        assert (
            self.says("pci_nvme_mmio_start_success setting controller enable bit succeeded") == []
        )

    def stops(self) -> None:
        assert self.says("pci_nvme_mmio_stopped cleared controller enable bit") == []

    def creates(self, queue: int, vector: int) -> None:
        asked = f"cqid={queue}, vector={vector}, qsize=1023, qflags=3, ien=1"
        assert (
            self.says(f"pci_nvme_create_cq create completion queue, addr=0x2a38000, {asked}") == []
        )

    def deletes(self, queue: int) -> None:
        assert self.says(f"pci_nvme_del_cq deleted completion queue, cqid={queue}") == []


@pytest.fixture
def disk() -> Disk:
    """A controller with an admin queue and two others."""
    disk = Disk()
    disk.sets_up()
    disk.starts()
    for queue in (1, 2):
        disk.creates(queue, queue)
    return disk


def sent(disk: Disk, vectors: Sequence[int]) -> list[int]:
    """Return of which vectors one that fires is sent."""
    return [vector for vector in vectors if disk.fires(vector) == [message(vector)]]


def test_a_controllers_line_has_the_vector(disk: Disk) -> None:
    assert sent(disk, range(VECTORS)) == [0, 1, 2]  # there is none that uses the last


def test_a_controllers_queue_that_is_deleted_leaves_nothing_pending(disk: Disk) -> None:
    disk.creates(3, 2)
    disk.deletes(1)
    disk.deletes(1)
    disk.deletes(2)
    assert sent(disk, (0, 1, 2)) == [0, 2]
    disk.table(32 + 12, 1)
    assert disk.fires(2) == []
    disk.deletes(3)
    assert disk.table(32 + 12, 0) == []


def test_a_controller_that_is_stopped_or_reset_has_no_queues(disk: Disk) -> None:
    disk.stops()
    assert sent(disk, range(VECTORS)) == []
    disk.starts()
    assert sent(disk, range(VECTORS)) == [0]
    disk.resets()
    disk.sets_up()
    assert sent(disk, range(VECTORS)) == []


def test_a_queue_that_was_created_while_msix_was_off_sends_nothing() -> None:
    disk = Disk()
    disk.starts()
    disk.sets_up()
    assert sent(disk, range(VECTORS)) == []


def test_a_queue_that_is_created_twice_counts_once(disk: Disk) -> None:
    disk.creates(1, 3)
    assert sent(disk, (1, 3)) == [1]
