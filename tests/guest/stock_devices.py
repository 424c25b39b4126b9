"""Devices that QEMU emulates, and the drivers that stock kernels have for them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from harness.build.image import kernel_modules, read_module
from harness.errors import BuildError
from harness.host.deadline import Deadline, wait_until
from harness.qemu.command import Json
from harness.testbed.vm import Vm

HOST: Final = "10.0.5.2"
GUEST: Final = "10.0.5.15"
"""Addresses on the network of the second card."""
BLOCK: Final = "/dev/nvme0n1"


def load_driver(vm: Vm, name: str) -> None:
    """Load a driver that the image has no use for, unless the kernel has it built in."""
    try:
        modules = kernel_modules(vm.guest.kernel, [name])
    except BuildError as error:
        pytest.skip(error.message)
    for path, file in modules.items():
        module = Path("/run", Path(path).name)
        vm.ssh.put(read_module(file), str(module))
        vm.ssh.run(f"test -d /sys/module/{module.stem} || insmod {module}")


def second_card(vm: Vm, port: str, address: str) -> Json:
    """Make a network, and return the options of a virtio-net card in it, to be plugged in."""
    network = {"type": "user", "id": "second", "net": "10.0.5.0/24", "host": HOST}
    vm.machine.qmp.execute("netdev_add", network)
    card = {"id": "stock", "netdev": "second", "mac": address, "romfile": ""}
    return {"driver": "virtio-net-pci", "bus": port, **card}


def wait_for_card(vm: Vm, address: str) -> str:
    """Return the guest's name of the card, once it has one."""
    found = f"grep -l {address} /sys/class/net/*/address | cut -d/ -f5"
    late = Deadline(20, "the second network interface")
    return wait_until(lambda: vm.ssh.run(found).stdout.strip(), late)


def disk_of(vm: Vm, port: str, path: Path) -> Json:
    """Return the options of an NVMe controller with a disk of this content, to be plugged in."""
    file = {"driver": "file", "filename": str(path)}
    vm.machine.qmp.execute("blockdev-add", {"node-name": "disk", "driver": "raw", "file": file})
    drive = {"id": "stock-disk", "drive": "disk", "serial": "imsh"}
    return {"driver": "nvme", "bus": port, **drive}


def wait_for_disk(vm: Vm) -> None:
    """Wait until the guest has the disk."""
    late = Deadline(20, "the disk")
    wait_until(lambda: vm.ssh.run(f"test -b {BLOCK}", check=False).status == 0, late)
