"""Devices that QEMU emulates itself, plugged in so that the vIRTE call can serve them."""

from __future__ import annotations

from harness.qemu.command import Json
from harness.qemu.machine import Machine
from harness.qemu.pci import secondary_bus
from harness.spec.pci import RequesterId
from harness.testbed.sender_watch import SenderWatch


def plug_emulated(machine: Machine, senders: SenderWatch, device: Json) -> RequesterId:
    """See ``Vm.plug_emulated``."""
    requester = RequesterId.of(secondary_bus(machine.qmp, str(device["bus"])))
    machine.log_emulated_messages()
    machine.pause()
    try:
        with senders.plugging(str(device["driver"]), requester):
            machine.plug(device)
    finally:
        machine.resume()
    return requester
