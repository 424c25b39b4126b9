"""Row D8: what QEMU's own devices send is held against the handle, each by its requester id.

In a guest that does not translate DMA, nothing else is between them and another's pair.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness.host.deadline import Deadline, wait_until
from harness.hypervisor.entry import HostEntry
from harness.hypervisor.host import Blocked
from harness.pci.message_table import CONTROL_OFFSET, ENTRY_SIZE
from harness.qemu.command import Json
from harness.qemu.pci import bar_address, secondary_bus
from harness.qemu.trace import TraceLine
from harness.spec.hypercall import CallStatus
from harness.spec.msi import Message
from harness.spec.pci import CapabilityId, Header, MsixLocation, RequesterId
from harness.testbed.lender import SHARED_PORTS
from harness.testbed.vm import Vm
from tests.guest import devmem
from tests.guest.bare_devices import capability, plugged_edu
from tests.guest.stock_devices import (
    BLOCK,
    GUEST,
    HOST,
    disk_of,
    load_driver,
    second_card,
    wait_for_card,
    wait_for_disk,
)
from tests.guest.support import Virte

pytestmark = [
    pytest.mark.shared_vm("module"),
    pytest.mark.capability("D8"),
    pytest.mark.machine("remapping-only"),
]

CARD_PORT, DISK_PORT, RNG_PORT, UNTOLD_PORT, BROKEN_PORT = (
    f"port{SHARED_PORTS - n}" for n in (2, 3, 4, 5, 6)
)
"""Each test has its own; that of ``plugged_edu`` is the last."""
ADDRESS = "52:54:00:12:34:98"
CONFIGURATION = 0
"""The interrupt of a changed configuration: Linux gives it a virtio device's first vector."""
TABLE_OFFSET = 4
"""Of Table Offset/Table BIR in the MSI-X capability."""
AWAY = 1 << 20
"""From the BARs of a device to where the port in front of it has room: its window is twice this."""
ROUNDS = 3
QUEUE = 1
"""The interrupt of the only queue that virtio-rng has."""
RING_OFFSET = 4
"""Of the ring in what the driver makes available (virtio 1.2, 2.7.6)."""
CURRENT = "/sys/class/misc/hw_random/rng_current"


class StockDevice:
    """A device of QEMU's with a stock driver, whose MSI-X entries root in the guest writes."""

    def __init__(self, vm: Vm, virte: Virte, device: Json):
        self.vm = vm
        self.host = virte.model.partition.host
        self._partition = virte.model.partition
        self.requester = vm.plug_emulated(device)
        self.slot = self.requester.slot
        self._identifier = str(device["id"])

    def entry(self, index: int) -> HostEntry:
        """Return what stands for one of its interrupts, once its driver has it."""

        def mapped() -> list[HostEntry]:
            source = self.requester, index
            entries = self._partition.entries()
            return [e for e in entries if (e.source.origin.requester, e.source.index) == source]

        late = Deadline(20, f"interrupt {index} of {self._identifier}")
        return wait_until(mapped, late)[0]

    def pair(self, index: int) -> Message:
        """Return the pair of one of its interrupts."""
        return self._partition.message(self.entry(index))

    def hold(self, pair: Message | None, *indices: int) -> None:
        """Put a pair into entries of its table, None: to each its own."""
        for index in indices:
            held = pair or self.pair(index)
            self._write(index, held.address & 0xFFFF_FFFF, held.address >> 32, held.data)

    def mask(self, mask: int, *indices: int) -> None:
        """Set or clear the mask of entries."""
        for index in indices:
            self._write(index, mask, at=CONTROL_OFFSET)

    def check_blocked(self) -> None:
        """Wait for a message of its own that is blocked; there was none of another's."""
        faults = self.host.faults
        wait_until(lambda: faults, Deadline(10, f"the blocked message of {self._identifier}"))
        found = {(fault.reason, fault.requester) for fault in faults}
        assert found == {(Blocked.WRONG_SOURCE, self.requester)}
        faults.clear()

    def _write(self, index: int, *words: int, at: int = 0) -> None:
        # Linux lets nobody write where a driver has claimed a BAR: it is elsewhere meanwhile. The
        # driver has no business with it then.
        location = capability(self.vm, self.slot, CapabilityId.MSIX) + TABLE_OFFSET
        table = MsixLocation.unpack(self.vm.control.read_config(self.slot, location, 4))
        own = bar_address(self.vm.machine.qmp, self._identifier, table.bar_index)
        entry = own + AWAY + 8 * table.offset + index * ENTRY_SIZE + at
        self._move(table.bar_index, own + AWAY)
        commands = devmem.write({entry + 4 * number: word for number, word in enumerate(words)})
        self.vm.ssh.run(" && ".join(commands))
        self._move(table.bar_index, own)

    def _move(self, bar: int, address: int) -> None:
        self.vm.control.write_config(self.slot, Header.BAR0 + 4 * bar, 4, address)


class Card(StockDevice):
    """A network card, virtio-net."""

    QUEUES = (1,)
    """The interrupt of the one that receives."""

    def __init__(self, vm: Vm, virte: Virte):
        super().__init__(vm, virte, second_card(vm, CARD_PORT, ADDRESS))
        self.name = wait_for_card(vm, ADDRESS)
        self.up()

    def up(self) -> None:
        """Bring the interface up: its driver looks for what has arrived without an interrupt."""
        self.vm.ssh.run(f"ifconfig {self.name} down; ifconfig {self.name} {GUEST} up")

    def use(self) -> None:
        """Have it carry traffic, as long as its interrupts arrive."""
        told = self.vm.ssh.run(f"ping -q -c 20 -i 0.01 {HOST}").stdout
        assert "20 packets received" in told

    def fire(self) -> None:
        """Have it receive, whatever comes of it."""
        self.vm.ssh.run(f"ping -q -c 1 -W 1 {HOST}", check=False)

    def link(self, *, up: bool) -> None:
        """Plug or pull its cable."""
        self.vm.machine.qmp.execute("set_link", {"name": "second", "up": up})

    def wait_carrier(self, *, up: bool) -> None:
        """Wait until its driver knows."""
        shown = f"cat /sys/class/net/{self.name}/carrier"
        late = Deadline(10, "the driver's knowledge of the cable")
        wait_until(lambda: self.vm.ssh.run(shown).stdout.strip() == str(int(up)), late)


class Disk(StockDevice):
    """A disk behind an NVMe controller, which one CPU reads from.

    :param path: of its content.
    """

    QUEUES = (1, 2)
    """The interrupts of each CPU's; which is whose is the kernel's affair."""

    def __init__(self, vm: Vm, virte: Virte, path: Path):
        load_driver(vm, "nvme")
        path.write_bytes(os.urandom(4 << 20))
        super().__init__(vm, virte, disk_of(vm, DISK_PORT, path))
        wait_for_disk(vm)
        self._content = path.read_bytes()
        self._read = 0

    def use(self) -> None:
        """Have it read, as long as its interrupts arrive."""
        self.fire()
        self.check_read()

    def fire(self, delay: float = 0) -> None:
        """Have it read after so many seconds, and do not wait for its answer."""
        self._read += 1
        file, skip = f"/run/read{self._read}", self._read
        copy = f"taskset 1 dd if={BLOCK} of={file}.part bs=4k count=1 skip={skip} iflag=direct"
        late = f"sleep {delay} && {copy} && mv {file}.part {file}"
        self.vm.ssh.run(f"({late}) </dev/null >/dev/null 2>&1 &")

    def fired(self) -> int:
        """Return which interrupt it has fired last, behind its mask or not."""
        told = self.vm.machine.events.of(TraceLine)
        return int([line.text for line in told if line.name == "pci_nvme_irq_msix"][-1].split()[-1])

    def check_read(self) -> None:
        """Wait for what was read last, and compare it."""
        file = f"/run/read{self._read}"
        late = Deadline(10, "the end of the read")
        wait_until(lambda: self.vm.ssh.run(f"test -e {file}", check=False).status == 0, late)
        assert self.vm.ssh.get(file) == self._content[4096 * self._read :][:4096]


def test_one_that_holds_anothers_pair_is_blocked_and_both_go_on(
    vm: Vm, virte: Virte, tmp_path: Path
) -> None:
    card, disk = Card(vm, virte), Disk(vm, virte, tmp_path / "disk")
    card.use()
    disk.use()
    cards, disks = card.pair(Card.QUEUES[0]), disk.pair(Disk.QUEUES[0])

    for _ in range(ROUNDS):
        card.hold(disks, *Card.QUEUES)
        card.fire()
        disk.use()
        card.check_blocked()
        card.hold(None, *Card.QUEUES)
        card.up()
        card.use()

        disk.hold(cards, *Disk.QUEUES)
        disk.fire()
        card.use()
        disk.check_blocked()
        disk.hold(None, *Disk.QUEUES)
        disk.use()  # and the driver finds the answer that it was not told of

    # What fires behind its mask is sent when that is gone, and no other passes for it till then: be
    # it one that nothing announces.
    with plugged_edu(vm) as edu:
        disk.mask(1, *Disk.QUEUES)
        edu.hold_msi(disk.pair(disk.fired()))
        disk.fire(delay=0.5)
        edu.fire_late()
        wait_until(lambda: disk.host.faults, Deadline(15, "the blocked message"))
        fault = disk.host.faults.popleft()
        assert (fault.reason, fault.requester) == (Blocked.WRONG_SOURCE, None)
    card.use()
    disk.mask(0, *Disk.QUEUES)
    disk.check_read()

    # The interrupt of a changed configuration has no line of its own.
    card.link(up=False)
    card.wait_carrier(up=False)
    card.hold(disks, CONFIGURATION)
    card.link(up=True)
    card.check_blocked()
    card.hold(None, CONFIGURATION)
    card.link(up=False)
    card.link(up=True)
    card.wait_carrier(up=True)
    card.use()
    disk.use()
    assert not card.host.faults


def test_a_device_of_which_qemu_tells_nothing_fires_no_pair_of_a_stock_drivers(
    vm: Vm, virte: Virte
) -> None:
    rng = StockDevice(vm, virte, {"driver": "virtio-rng-pci", "id": "rng", "bus": RNG_PORT})
    queue = rng.entry(QUEUE)
    with plugged_edu(vm) as edu:
        for index in (CONFIGURATION, QUEUE):
            edu.hold_msi(rng.pair(index))
            edu.fire()
            wait_until(lambda: rng.host.faults, Deadline(5, "the blocked message"))
            assert rng.host.faults.popleft().reason is Blocked.WRONG_SOURCE
            assert rng.entry(index).blocked == 1
    before = queue.delivered
    vm.ssh.run(f"echo virtio_rng.1 > {CURRENT}; head -c 64 /dev/hwrng > /run/random")
    wait_until(lambda: queue.delivered > before, Deadline(10, "an interrupt of virtio-rng"))


def test_one_that_qemu_has_given_up_lets_nothing_pass(vm: Vm, virte: Virte, tmp_path: Path) -> None:
    # The request that the driver has always out waits for what comes through this; QEMU has the
    # other end as well, for it takes the end of a file for an answer.
    path = tmp_path / "entropy"
    os.mkfifo(path)
    source = {"qom-type": "rng-random", "id": "entropy", "filename": str(path)}
    vm.machine.qmp.execute("object-add", source)
    other_end = {"type": "file", "data": {"out": str(path)}}
    vm.machine.qmp.execute("chardev-add", {"id": "entropy", "backend": other_end})
    with path.open("r+b", buffering=0) as entropy, plugged_edu(vm) as edu:
        # Without event_idx QEMU has something to tell of a queue into which nothing was put.
        place = {"driver": "virtio-rng-pci", "id": "broken", "bus": BROKEN_PORT}
        rng = StockDevice(vm, virte, {**place, "rng": "entropy", "event_idx": False})
        config, queue = rng.entry(CONFIGURATION), rng.entry(QUEUE)
        edu.hold_msi(rng.pair(QUEUE))

        backend = {"path": "/machine/peripheral/broken/virtio-backend", "queue": 0}
        told = vm.machine.qmp.execute("x-query-virtio-queue-status", backend)
        nonsense = b"\xff\xff" * told["vring-num"]
        vm.machine.memory.write(told["vring-avail"] + RING_OFFSET, nonsense)
        edu.fire_late()
        time.sleep(0.3)  # for the guest to be quiet: whatever it writes would end the matter
        entropy.write(os.urandom(64))
        wait_until(lambda: queue.blocked or queue.delivered, Deadline(15, "the message of edu"))
        assert (config.blocked, queue.blocked, queue.delivered) == (1, 1, 0)
        assert {fault.reason for fault in rng.host.faults} == {Blocked.WRONG_SOURCE}
        rng.host.faults.clear()

        driver = "/sys/bus/pci/drivers/virtio-pci"
        vm.ssh.run(f"echo {rng.slot} > {driver}/unbind; echo {rng.slot} > {driver}/bind")
        entropy.write(os.urandom(64))
        late = Deadline(10, "an interrupt of virtio-rng")
        wait_until(lambda: rng.entry(QUEUE).delivered, late)


def test_a_device_of_which_qemu_tells_nothing_gets_no_handle(vm: Vm, virte: Virte) -> None:
    partition = virte.model.partition
    vm.machine.plug({"driver": "virtio-rng-pci", "id": "untold", "bus": UNTOLD_PORT})
    untold = RequesterId.of(secondary_bus(vm.machine.qmp, UNTOLD_PORT))
    late = Deadline(20, "the driver's call")
    wait_until(lambda: partition.untold[untold] or partition.entries(), late)
    assert partition.entries() == []
    refused = [call for call in virte.model.calls if call.answer.status != CallStatus.OK]
    assert {call.answer.status for call in refused} == {CallStatus.DENIED}
    assert {entry.requester for call in refused for entry, _ in call.entries} == {untold}
    assert f"handles for {untold}, whose messages nobody tells" in virte.model.table()
    driver = f"basename $(readlink /sys/bus/pci/devices/{untold.slot}/driver)"
    late = Deadline(10, "the driver, without MSI-X")
    wait_until(lambda: vm.ssh.run(driver, check=False).stdout.strip() == "virtio-pci", late)
    assert partition.entries() == []
