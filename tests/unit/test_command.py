"""From machine specifications to QEMU's arguments."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.config.schema import load_directory
from harness.errors import ConfigError
from harness.host.resources import resource
from harness.qemu import command
from harness.qemu.command import Iommu, MachineSpec, Option, Wiring

QEMU = ("/opt/ld.so", "--library-path", "/opt/a b", "/opt/qemu")

WIRING = Wiring(
    kernel="/boot/vmlinuz",
    initrd="/proc/self/fd/7",
    memory="/proc/self/fd/6",
    qmp_fd=4,
    console_fd=5,
    console_log=Path("/runs/a,b/console.log"),
    trace_log=Path("/runs/a,b/trace.log"),
)


def spec(**changes: Any) -> MachineSpec:
    values: dict[str, Any] = {"name": "m", "description": "a machine", "iommu": Iommu(), **changes}
    return MachineSpec(**values)


def values(options: list[Option], name: str) -> list[str]:
    return [option[1] for option in options if option[0] == name]


def devices(options: list[Option]) -> list[dict[str, Any]]:
    return [json.loads(value) for value in values(options, "-device")]


def test_the_iommu_comes_before_every_other_device() -> None:
    drivers = [device["driver"] for device in devices(command.options(spec(), WIRING))]
    assert drivers[0] == "intel-iommu"
    assert len(drivers) > 1


def test_the_iommu_is_as_specified() -> None:
    iommu = Iommu(caching_mode=True, dma_translation=True, x2apic=False)
    assert devices(command.options(spec(iommu=iommu), WIRING))[0] == {
        "driver": "intel-iommu",
        "intremap": "on",
        "eim": "off",
        "caching-mode": True,
        "dma-translation": True,
    }


def test_extended_interrupt_mode_needs_remapping() -> None:
    iommu = Iommu(interrupt_remapping=False, x2apic=True)
    assert devices(command.options(spec(iommu=iommu), WIRING))[0]["eim"] == "off"


def test_a_machine_without_iommu_has_none() -> None:
    options = command.options(spec(iommu=None), WIRING)
    assert "intel-iommu" not in [device["driver"] for device in devices(options)]


def test_only_what_is_asked_for_is_plugged_in() -> None:
    options = command.options(spec(iommu=None, root_ports=2), WIRING)
    assert ("-nodefaults",) in options
    assert "sata=off" in values(options, "-machine")[0]
    assert [device["driver"] for device in devices(options)] == [
        "virtio-net-pci",
        "pcie-root-port",
        "pcie-root-port",
    ]


def test_the_guest_is_reached_on_loopback_only() -> None:
    (netdev,) = values(command.options(spec(), WIRING), "-netdev")
    assert json.loads(netdev)["hostfwd"] == [{"str": "tcp:127.0.0.1:0-10.0.2.15:22"}]
    assert json.loads(netdev)["restrict"] is True


def test_saved_memory_is_mapped_privately_and_can_never_be_written() -> None:
    options = command.options(spec(), Wiring(memory="/ram", private_memory=True, incoming=True))
    (backend,) = map(json.loads, values(options, "-object"))
    assert (backend["share"], backend["readonly"], backend["rom"]) == (False, True, "off")
    assert values(options, "-incoming") == ["defer"]


def test_a_machine_that_continues_has_no_kernel_to_load() -> None:
    options = command.options(spec(), Wiring(memory="/ram", private_memory=True, incoming=True))
    assert not {"-kernel", "-initrd", "-append"} & {option[0] for option in options}


def test_memory_of_a_machine_that_boots_is_shared() -> None:
    (backend,) = map(json.loads, values(command.options(spec(), WIRING), "-object"))
    assert backend["share"] is True
    assert "readonly" not in backend


def test_ports_come_behind_the_root_ports_with_their_names() -> None:
    wiring = replace(WIRING, ports=(("imsh.test", 8), ("imsh.host", 9)))
    options = command.options(spec(iommu=None), wiring)
    assert [device["driver"] for device in devices(options)] == [
        "virtio-net-pci", "pcie-root-port", "virtio-serial-pci", "virtserialport", "virtserialport"
    ]  # fmt: skip
    assert [device.get("name") for device in devices(options)[3:]] == ["imsh.test", "imsh.host"]
    assert "socket,id=imsh.host,fd=9" in values(options, "-chardev")


def test_a_comma_in_a_path_is_doubled_in_a_comma_string() -> None:
    chardevs = values(command.options(spec(), WIRING), "-chardev")
    assert "socket,id=console,fd=5,logfile=/runs/a,,b/console.log,logappend=on" in chardevs


def test_later_kernel_arguments_win() -> None:
    line = command.kernel_command_line(spec(kernel_arguments=("a=1",)), ("a=2",))
    assert line[-2:] == ("a=1", "a=2")


def test_by_hand_the_terminal_has_console_and_monitor() -> None:
    options = command.options(spec(), Wiring(kernel="/boot/vmlinuz"))
    assert values(options, "-serial") == ["mon:stdio"]
    assert not [option for option in options if "fd" in " ".join(option)]


def test_the_printed_form_is_the_started_one() -> None:
    options = command.options(spec(), WIRING)
    text = command.printable(QEMU, options)
    assert shlex.split(text.replace("\\\n", " ")) == command.argv(QEMU, options)


def test_each_line_of_the_printed_form_is_an_option_with_its_value() -> None:
    first, *rest = command.printable(QEMU, command.options(spec(), WIRING)).splitlines()
    assert first.startswith("/opt/ld.so")
    assert all(line.strip().startswith("-") for line in rest)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": 64}, "memory: 64 MiB"),
        ({"cpus": 0}, "cpus: 0"),
        ({"cpus": 256}, "cpus: 256"),
        ({"root_ports": 17}, "root_ports: 17"),
        ({"apic_ids": (0, 1, 2)}, "apic_ids: 3 for 2 cpus"),
        ({"apic_ids": (1, 2)}, "is not 0 and then ascending"),
        ({"apic_ids": (0, 0)}, "is not 0 and then ascending"),
        ({"apic_ids": (0, 1024)}, "apic_ids: 1024 is more than 1023"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spec(**changes)


def test_dma_translation_without_caching_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs caching_mode"):
        Iommu(dma_translation=True, caching_mode=False)


def test_a_cpu_with_an_apic_id_of_its_own_is_plugged_into_its_place() -> None:
    options = command.options(spec(cpus=3, apic_ids=(0, 17, 300)), WIRING)
    assert values(options, "-smp") == ["1,maxcpus=304,sockets=19,cores=16,threads=1"]
    devices = map(json.loads, values(options, "-device"))
    places = [(d["socket-id"], d["core-id"]) for d in devices if d["driver"] == "max-x86_64-cpu"]
    assert places == [(1, 1), (18, 12)]


def test_a_conventional_function_is_plugged_into_its_bridge() -> None:
    *_, bridge, function = devices(command.options(spec(bridged_function=True), WIRING))
    assert (bridge["driver"], bridge["id"]) == ("pcie-pci-bridge", command.BRIDGE)
    assert function["bus"] == command.BRIDGE


def test_a_hidden_hypervisor_bit_is_an_option_of_the_cpu() -> None:
    assert "hypervisor" not in values(command.options(spec(), WIRING), "-cpu")[0]
    hidden = command.options(spec(hypervisor_bit=False), WIRING)
    assert values(hidden, "-cpu")[0].endswith(",hypervisor=off")


def test_the_machines_that_come_with_the_harness_are_what_they_are_named() -> None:
    machines = load_directory(resource("guests/machines"), MachineSpec)
    caching = Iommu(caching_mode=True, dma_translation=True)
    assert {name: machine.iommu for name, machine in machines.items()} == {
        "caching": caching,
        "caching-xapic": replace(caching, x2apic=False),
        "large-apic-ids": caching,
        "large-apic-ids-physical": caching,
        "remapping-only": Iommu(),
        "remapping-only-xapic": Iommu(x2apic=False),
        "no-iommu": None,
        "bridged": Iommu(),
        "many-cpus": Iommu(),
        "bare-metal": Iommu(),
        "bare-metal-new": Iommu(ims="allowed"),
        "bare-metal-vire": Iommu(),
        "disguised-guest": Iommu(),
        "ims-allowed": replace(caching, ims="allowed"),
        "ims-disallowed": Iommu(ims="disallowed"),
        "vire-direct": caching,
        "vire-call": Iommu(),
        "vire-undefined": Iommu(),
        "vire-twice": Iommu(ims="allowed"),
        "dmar-twice": Iommu(ims="allowed"),
        "dmar-checksum": Iommu(ims="allowed"),
        "contradiction": Iommu(ims="disallowed"),
    }
    assert {name for name, machine in machines.items() if not machine.remaps_interrupts} == {
        "no-iommu"
    }
