"""Row D7: stock drivers, unmodified, run their MSI-X over the vIRTE call.

What they carry is compared: a file goes through and comes back, whatever CPU their interrupts are
on, and after they were unbound and bound again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.host.deadline import Deadline, wait_until
from harness.hypervisor.entry import HostEntry
from harness.spec.interrupt import Store
from harness.spec.pci import RequesterId
from harness.testbed.lender import SHARED_PORTS
from harness.testbed.vm import Vm
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
from tests.guest.support import Virte, bind, unbind

pytestmark = [
    pytest.mark.shared_vm("module"),
    pytest.mark.capability("D7"),
    pytest.mark.cpus(2),
]

LAST_PORTS = [f"port{SHARED_PORTS - number}" for number in (1, 2)]
"""Tests take a function each: these ports are never reached."""
MIB = 1 << 20
ADDRESS = "52:54:00:12:34:99"


class Interrupts:
    """The interrupts of a stock driver, as the hypervisor has them."""

    def __init__(self, vm: Vm, virte: Virte):
        self.vm = vm
        self.entries = virte.model.partition.entries

    @property
    def delivered(self) -> int:
        return sum(entry.delivered for entry in self.entries())

    @property
    def slot(self) -> str:
        """Of the one function whose interrupts are mapped, all of them of MSI-X."""
        ((store, requester),) = {(e.source.store, e.source.origin.requester) for e in self.mapped()}
        assert store == Store.MSIX
        return RequesterId(requester).slot

    def mapped(self) -> list[HostEntry]:
        return wait_until(self.entries, Deadline(20, "interrupts of the driver"))

    def numbers(self) -> list[str]:
        listed = self.vm.ssh.run(f"ls /sys/bus/pci/devices/{self.slot}/msi_irqs").stdout
        return sorted(listed.split(), key=int)


@pytest.fixture
def interrupts(vm: Vm, virte: Virte) -> Interrupts:
    return Interrupts(vm, virte)


@pytest.fixture
def echo() -> Iterator[tuple[int, ThreadPoolExecutor, socket.socket]]:
    """A port of the host where whoever connects gets back what it has sent."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        ThreadPoolExecutor(1) as pool,
    ):
        listener.settimeout(60)
        yield listener.getsockname()[1], pool, listener


def send_back(listener: socket.socket) -> bytes:
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(60)
        data = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        connection.sendall(data)
    return data


def test_virtio_net(
    vm: Vm, interrupts: Interrupts, echo: tuple[int, ThreadPoolExecutor, socket.socket]
) -> None:
    port, pool, listener = echo
    vm.plug_emulated(second_card(vm, LAST_PORTS[0], ADDRESS))
    content = os.urandom(MIB)
    vm.ssh.put(content, "/run/sent")

    def carry_traffic() -> None:
        name = wait_for_card(vm, ADDRESS)
        vm.ssh.run(f"ifconfig {name} {GUEST} netmask 255.255.255.0 up")
        before = interrupts.delivered
        told = vm.ssh.run(f"ping -q -c 100 -i 0.01 {HOST}").stdout
        assert "100 packets received" in told
        sent = pool.submit(send_back, listener)
        vm.ssh.run(f"nc {HOST} {port} < /run/sent > /run/back && cmp /run/sent /run/back")
        assert sent.result() == content
        assert interrupts.delivered > before + 100

    carry_traffic()
    slot = interrupts.slot
    for cpu in (1, 0):
        for number in interrupts.numbers():
            vm.ssh.run(f"echo {cpu} > /proc/irq/{number}/smp_affinity_list")
        carry_traffic()
    unbind(vm, slot)
    assert interrupts.entries() == []
    bind(vm, slot, "virtio-pci")
    carry_traffic()


def test_nvme(vm: Vm, interrupts: Interrupts, tmp_path: Path) -> None:
    load_driver(vm, "nvme")
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(4 * MIB))
    vm.plug_emulated(disk_of(vm, LAST_PORTS[1], disk))

    def carry_traffic() -> None:
        wait_for_disk(vm)
        before = interrupts.delivered
        # What the host has put there is read, and what is written is read by the host.
        vm.ssh.run(f"dd if={BLOCK} of=/run/read bs=64k count=16")
        assert vm.ssh.get("/run/read") == disk.read_bytes()[:MIB]
        vm.ssh.run(f"dd if=/run/read of={BLOCK} bs=64k seek=32 conv=fsync")
        written = disk.read_bytes()
        assert written[2 * MIB : 3 * MIB] == written[:MIB]
        with disk.open("r+b") as opened:
            opened.write(os.urandom(MIB))
        vm.ssh.run(f"blockdev --flushbufs {BLOCK}")
        assert interrupts.delivered > before

    def ask_the_controller() -> None:
        before = interrupts.delivered
        vm.ssh.run("echo 1 > /sys/class/nvme/nvme0/rescan_controller")
        wait_until(lambda: interrupts.delivered > before, Deadline(10, "the controller's answer"))

    carry_traffic()
    slot = interrupts.slot
    # The queues' interrupts are the kernel's to move; the first is the controller's.
    admin = interrupts.numbers()[0]
    for cpu in (1, 0):
        vm.ssh.run(f"echo {cpu} > /proc/irq/{admin}/smp_affinity_list")
        ask_the_controller()
        (moved,) = (irq for irq in vm.control.irqs() if irq.virq == int(admin))
        assert moved.cpu == cpu
    vm.control.set_cpu(1, online=False)
    try:
        carry_traffic()
    finally:
        vm.control.set_cpu(1, online=True)
    unbind(vm, slot)
    assert interrupts.entries() == []
    bind(vm, slot, "nvme")
    carry_traffic()
