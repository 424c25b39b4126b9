"""Row G4: what stands in the live IRTEs of every device of the machine."""

from __future__ import annotations

import pytest

from harness.remapping.live_entries import Rule
from harness.spec.interrupt import Store
from harness.spec.pci import RequesterId
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.views import IO_APIC_SOURCE
from harness.testbed.vm import Vm
from tests.guest.support import damaged

pytestmark = [
    pytest.mark.shared_vm("module"),
    pytest.mark.capability("G4"),
    pytest.mark.machine("caching", "remapping-only", "caching-xapic"),
]


def test_every_live_irte_leads_to_its_cpu_and_has_no_bit_that_it_should_not(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    senders = {
        RequesterId(item.source_id) for item in ims_device.table().present_entries().values()
    }
    port = RequesterId.of(0, *_devfn(vm, "port0"))
    assert senders >= {IO_APIC_SOURCE, port, RequesterId.of(0, *_devfn(vm, "nic0"))}
    ims_device.check_rules()
    for store in STORES:
        ims_device.set_up(store, 3)
        ims_device.check_rules()
        for index in range(3):
            ims_device.move(store, index % vm.spec.cpus, index)
        ims_device.check_rules()
        ims_device.control.release(store, count=3)
        ims_device.control.free(store, count=3)
    ims_device.check_rules()


def _devfn(vm: Vm, identifier: str) -> tuple[int, int]:
    """Return device and function number of one of QEMU's devices on bus 0."""
    for bus in vm.machine.qmp.execute("query-pci"):
        for device in bus["devices"]:
            if device["qdev_id"] == identifier:
                return device["slot"], device["function"]
    raise AssertionError(f"QEMU has no PCI device {identifier}")


@pytest.mark.machine("caching", "caching-xapic")
def test_a_rule_that_an_irte_breaks_is_named(vm: Vm, ims_device: PluggedFunction) -> None:
    ims_device.set_up(Store.IMS, 2)
    ims_device.move(Store.IMS, 1, index=1)
    sound = ims_device.irte(ims_device.message(Store.IMS, 1))
    logical = dict(sound)["destination_mode"]
    misled = {Rule.NO_CPU, Rule.WRONG_CPU}
    for fields, expected in (
        ({"fault_disable": 1}, {Rule.FAULT_DISABLED}),
        ({"redirection_hint": 0}, {Rule.REDIRECTION_HINT}),
        ({"destination_mode": 1 - logical}, misled),
        ({"mode": 1}, {Rule.POSTED}),
    ):
        with damaged(vm, ims_device, 1, **fields):
            (broken,) = ims_device.broken_rules()
        assert broken.rule in expected
    with damaged(vm, ims_device, 1, bits=1 << 90):
        (broken,) = ims_device.broken_rules()
    assert broken.rule is Rule.RESERVED_BITS
    ims_device.check_rules()
