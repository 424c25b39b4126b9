"""Stock drivers, unmodified, run their MSI-X over the vIRTE call."""

from __future__ import annotations

import pytest

from harness.host.deadline import Deadline, wait_until
from harness.hypervisor.entry import HostEntry
from harness.spec.interrupt import Store
from harness.spec.pci import RequesterId
from harness.testbed.lender import SHARED_PORTS
from harness.testbed.vm import Vm
from tests.guest.support import Virte, bind, unbind

pytestmark = pytest.mark.shared_vm("module")

LAST_PORT = f"port{SHARED_PORTS - 1}"
"""Tests take a function each: the last port is never reached."""


ADDRESS = "52:54:00:12:34:99"
FIND = f"grep -l {ADDRESS} /sys/class/net/*/address | cut -d/ -f5"


@pytest.mark.capability("D7")
def test_a_stock_network_driver_runs_its_msix_over_the_call(vm: Vm, virte: Virte) -> None:
    net = {"net": "10.0.5.0/24", "host": "10.0.5.2"}
    vm.machine.qmp.execute("netdev_add", {"type": "user", "id": "second", **net})
    card = {"id": "stock", "netdev": "second", "mac": ADDRESS, "romfile": ""}
    vm.machine.plug({"driver": "virtio-net-pci", "bus": LAST_PORT, **card})

    def entries() -> list[HostEntry]:
        return virte.model.partition.entries()

    def delivered() -> int:
        return sum(entry.delivered for entry in entries())

    def carry_traffic() -> None:
        deadline = Deadline(20, "the second network interface")
        name = wait_until(lambda: vm.ssh.run(FIND).stdout.strip(), deadline)
        vm.ssh.run(f"ifconfig {name} 10.0.5.15 netmask 255.255.255.0 up")
        before = delivered()
        told = vm.ssh.run("ping -q -c 100 -i 0.01 10.0.5.2").stdout
        assert "100 packets received" in told
        assert delivered() > before + 50

    carry_traffic()
    assert {entry.source.store for entry in entries()} == {Store.MSIX}
    (requester,) = {RequesterId(entry.source.origin.requester) for entry in entries()}
    numbers = f"$(ls /sys/bus/pci/devices/{requester.slot}/msi_irqs)"
    for cpu in (1, 0):
        vm.ssh.run(f"for irq in {numbers}; do echo {cpu} > /proc/irq/$irq/smp_affinity_list; done")
        carry_traffic()

    unbind(vm, requester.slot)
    assert entries() == []
    bind(vm, requester.slot, "virtio-pci")
    carry_traffic()
