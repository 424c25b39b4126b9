"""The guest module against careless callers, a device that does not answer, and its own end."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from harness.build.provision import Provisioner
from harness.config.recipes import load_machines
from harness.devices.ims_function.address_map import Area
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.errors import GuestLost
from harness.guest.control import ControlError
from harness.host.deadline import Deadline
from harness.host.workspace import make_workspace
from harness.pci.access_log import Access
from harness.pci.message_table import ENTRY_SIZE
from harness.spec.interrupt import Store
from harness.spec.pci import Command, Header
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.supplies import DEFAULT_KERNEL, DEFAULT_MACHINE
from harness.testbed.vm import Vm, running_vm
from tests.guest.support import deliver, write_command

BEYOND = (2048, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1)
"""Indices that no store has: at the limit, and where an int changes its sign."""

MASK = 0xC
"""Offset of the control dword, whose bit 0 masks, in an entry of the IMS array."""


# Numbers.


@pytest.mark.parametrize("index", BEYOND, ids=hex)
def test_no_index_reaches_beyond_a_store(ims_device: PluggedFunction, index: int) -> None:
    for store in STORES:
        with pytest.raises(ControlError) as refused:
            ims_device.control.stored(store, index)
        assert refused.value.errno == errno.EINVAL, store


@pytest.mark.parametrize("count", [2**31, 2**32 - 1], ids=hex)
def test_a_count_that_no_int_holds_is_refused(ims_device: PluggedFunction, count: int) -> None:
    for store in STORES:
        for least in (None, count):
            with pytest.raises(ControlError) as refused:
                ims_device.control.alloc(store, count, least=least)
            assert refused.value.errno == errno.EINVAL, store
    ims_device.set_up(Store.IMS, 1)
    deliver(ims_device, Store.IMS, 0)


# A device that does not answer.


@pytest.fixture
def deaf(ims_device: PluggedFunction) -> PluggedFunction:
    """The function, not a bus master: it cannot read a descriptor, and no record ever comes."""
    write_command(ims_device, Command(memory_space=1))
    return ims_device


@pytest.mark.leaves("events")  # an interrupt of a function that is not set up
def test_a_wait_of_no_time_looks_once(deaf: PluggedFunction) -> None:
    with pytest.raises(ControlError) as expired:
        deaf.control.fire(Store.IMS, timeout_ms=0)
    assert expired.value.errno == errno.ETIMEDOUT

    write_command(deaf, Command(memory_space=1, bus_master=1))
    deaf.control.reset()
    assert deaf.control.fire(Store.IMS).completion == "success"


def test_a_long_wait_ends_with_a_signal(vm: Vm, deaf: PluggedFunction) -> None:
    script = (
        "imsctl fire store=ims timeout=60000 >/dev/null & "
        "sleep 0.5; kill $!; wait $!; echo ended >&2"
    )
    vm.ssh.run(script, deadline=Deadline(15, "the end of a killed imsctl"))


def test_a_long_wait_ends_when_the_driver_is_unbound(vm: Vm, deaf: PluggedFunction) -> None:
    vm.ssh.run("imsctl fire store=ims timeout=60000 >/run/fire & sleep 0.5")
    deaf.control.call("unbind", seconds=15, slot=deaf.slot)
    assert '"ENODEV"' in vm.ssh.run("sleep 0.5; cat /run/fire").stdout


# What is on the wire.


@pytest.mark.device(ims_mapped=False)
def test_a_mask_is_read_back_before_the_next_access(ims_device: PluggedFunction) -> None:
    ims_device.set_up(Store.IMS, 2)
    seen = len(ims_device.model.accesses.accesses())
    ims_device.control.mask(Store.IMS, 1)
    later = ims_device.model.accesses.accesses()[seen:]
    place = ENTRY_SIZE + MASK
    at = next(at for at, access in enumerate(later) if is_mask(access, place))
    after = later[at + 1]
    assert (after.area, after.offset, after.write) == (Area.IMS, place, False), str(after)


def is_mask(access: Access, offset: int) -> bool:
    return (
        access.area is Area.IMS
        and access.write
        and access.offset == offset
        and bool(access.value & 1)
    )


TRACING = "/sys/kernel/tracing"


def test_bus_mastering_ends_before_the_memory_that_the_device_writes(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    vm.ssh.run(
        f"cd {TRACING} && echo 'p:imsh/off pci_clear_master' >kprobe_events"
        " && echo 'p:imsh/free dma_free_attrs' >>kprobe_events && echo 1 >events/imsh/enable"
    )
    ims_device.unbind()
    trace = vm.ssh.run(
        f"cd {TRACING} && echo 0 >events/imsh/enable && cat trace && echo >kprobe_events"
    ).stdout
    events = [
        word for line in trace.splitlines() for word in ("off", "free") if f" {word}:" in line
    ]
    assert events[0] == "off", trace
    assert events.count("free") == 2, trace  # the ring and its records


def test_a_reboot_leaves_a_quiet_function(provisioner: Provisioner, tmp_path: Path) -> None:
    guest = provisioner.guest(provisioner.recipes.kernels[DEFAULT_KERNEL])
    machine = load_machines()[DEFAULT_MACHINE]
    workspace = make_workspace(tmp_path, "machine")
    with (
        running_vm(guest, provisioner.qemu(), machine, workspace) as vm,
        vm.ims_function(ImsFunctionSpec(ims_mapped=False)) as plugged,
    ):
        plugged.set_up(Store.MSIX, 2)
        plugged.set_up(Store.IMS, 2)
        deliver(plugged, Store.IMS, 0, 1)
        seen = len(plugged.model.accesses.accesses())
        with pytest.raises(GuestLost, match="guest-reset"):
            vm.ssh.run("reboot -f; sleep 60", deadline=Deadline(30, "the reboot"))
        last = [access for access in plugged.model.accesses.accesses()[seen:] if access.write]
    assert any(is_mask(access, MASK) for access in last), "IMS 0 is masked"
    assert any(is_mask(access, ENTRY_SIZE + MASK) for access in last), "IMS 1 is masked"
    assert [access.value for access in last if access.register == "CONTROL"] == [0]
    commands = [access.value for access in last if access.register == Header.COMMAND.name]
    assert commands
    assert not Command.unpack(commands[-1]).bus_master


# What the kernel offers, and what the module makes of it.


@pytest.mark.capability("A3")
def test_dynamic_msix_is_found_exactly_where_the_kernel_has_it(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    exported = vm.ssh.run("grep -c ' __ksymtab_pci_msix_alloc_irq_at$' /proc/kallsyms", check=False)
    offered = exported.stdout.strip() == "1"
    assert ims_device.control.facts().dynamic_msix is offered
    assert offered is (vm.guest.kernel.name != "debian-6.1")


def test_ims_stands_on_the_kernels_domain_exactly_where_it_makes_one(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    exported = vm.ssh.run("grep -c ' __ksymtab_pci_create_ims_domain$' /proc/kallsyms", check=False)
    by = "kernel" if exported.stdout.strip() == "1" else "module"
    assert ims_device.control.facts().ims_domain == by
