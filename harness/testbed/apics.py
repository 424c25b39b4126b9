# Ref: QEMU target/i386/cpu-apic.c, x86_cpu_dump_local_apic_state(): "LDR".
"""The local APICs of a guest's online CPUs, as far as interrupt messages are matched with them."""

from __future__ import annotations

import re

from harness.errors import HarnessError
from harness.guest.facts import Cpus
from harness.qemu.machine import Machine
from harness.remapping.live_entries import Apic


def online_apics(machine: Machine, cpus: Cpus, *, extended_mode: bool) -> list[Apic]:
    """Return the APIC of each online CPU; the logical ids of xAPIC mode are QEMU's registers.

    :raises HarnessError: QEMU does not show them.
    """
    if extended_mode:
        return [Apic.x2apic(cpu.cpu, cpu.apic_id) for cpu in cpus.cpus]
    return [Apic(cpu.cpu, cpu.apic_id, _logical_id(machine, cpu.apic_id)) for cpu in cpus.cpus]


def _logical_id(machine: Machine, apic_id: int) -> int:
    text = machine.qmp.human(f"info lapic {apic_id}")
    if match := re.search(r"\bLDR 0x([0-9a-f]+)", text):
        return int(match[1], 16)
    raise HarnessError(f"QEMU does not show the LDR of APIC {apic_id}", evidence=text)
