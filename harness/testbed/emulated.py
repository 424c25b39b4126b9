"""Devices that QEMU emulates itself, plugged in so that the vIRTE call can serve them."""

from __future__ import annotations

import re
from typing import Final

from harness.errors import HarnessError
from harness.pci.message_table import ENTRY_SIZE
from harness.qemu.command import Json
from harness.qemu.machine import Machine
from harness.qemu.pci import msix_table_size, secondary_bus
from harness.spec.pci import RequesterId
from harness.testbed.emulated_senders import (
    NVME,
    PAGE_SIZE,
    VIRTIO,
    EmulatedSender,
    NvmeSender,
    VirtioSender,
)
from harness.testbed.sender_watch import SenderWatch

_RESET: Final = re.compile(
    r" resettable_phase_hold_exec obj=(?P<object>0x\w+)\((?P<driver>.*)\)"
    r"| virtio_set_status vdev (?P<device>0x\w+) val 0$",
    re.MULTILINE,
)


def plug_emulated(machine: Machine, senders: SenderWatch, device: Json) -> RequesterId:
    """See ``Vm.plug_emulated``."""
    requester = RequesterId.of(secondary_bus(machine.qmp, str(device["bus"])))
    others = [sender for sender in senders.emulated if sender.requester != requester]
    if device["driver"] == NVME and any(isinstance(sender, NvmeSender) for sender in others):
        raise HarnessError(
            "QEMU's log does not tell two NVMe controllers apart",
            hint="plug one in for each machine with the vIRTE call",
        )
    log = machine.followed_emulated()
    machine.pause()  # what is reset from here on is the device
    try:
        machine.plug(device)
        if sender := _sender(machine, requester, device, log.read()):
            senders.add_emulated(sender)
    finally:
        machine.resume()
    return requester


def _sender(
    machine: Machine, requester: RequesterId, device: Json, log: str
) -> EmulatedSender | None:
    driver = str(device["driver"])
    if driver != NVME and not driver.startswith(VIRTIO):
        return None  # QEMU logs nothing of it
    size = msix_table_size(machine.qmp, str(device["id"]))
    if size > PAGE_SIZE:
        raise HarnessError(
            f"the MSI-X table of {driver} at {requester} is longer than a page",
            hint=f"plug it in with at most {PAGE_SIZE // ENTRY_SIZE} vectors",
        )
    resets = list(_RESET.finditer(log))
    objects = {reset["object"] for reset in resets if reset["driver"] == driver}
    devices = {reset["device"] for reset in resets if reset["device"]}
    if len(objects) != 1 or (driver != NVME and len(devices) != 1):
        raise HarnessError(f"QEMU's log does not tell which {driver} is at {requester}")
    place = requester, objects.pop(), size // ENTRY_SIZE
    if driver == NVME:
        return NvmeSender(*place)
    names = {device["id"], device.get("netdev")}
    return VirtioSender(*place, device=devices.pop(), names=names)
