# Ref: Linux drivers/iommu/intel/irq_remapping.c, intel_irq_remapping_alloc(); drivers/pci/msi/
#      irqdomain.c, pci_msi_domain_calc_hwirq(); kernel/irq/msi.c, msi_create_device_irq_domain().
#      Seen on v6.1, v6.12 and v7.2.
"""What Linux's own names and numbers say about an interrupt: its IRTE and its sender."""

from __future__ import annotations

import re
from typing import Final

from harness.spec.pci import RequesterId

# "IR-PCI-MSIX-0000:01:00.0": the per-device chips since v6.2.
_DEVICE_CHIP: Final = re.compile(
    r"(?:IR-)?PCI-MSIX?-[0-9a-f]+:([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])"
)
_SHARED_CHIPS: Final = {"IR-PCI-MSI", "PCI-MSI"}

REMAPPING_CHIPS: Final = frozenset({"INTEL-IR", "INTEL-IR-POST"})
"""Chips of the level that owns IRTEs. Its domain's name will not do: v6.1 has a PCI/MSI domain
INTEL-IR-MSI above the domain INTEL-IR."""


def entry_index(hwirq: int) -> int:
    """Return the index of the IRTE for a hardware number of the level of :data:`REMAPPING_CHIPS`.

    The number is the first index of the block in 31:16 and the place in the block in 15:0. The
    kernel computes it as a signed int, so from index 8000h on it arrives sign-extended to 64 bits.
    """
    return ((hwirq >> 16) & 0xFFFF) + (hwirq & 0xFFFF)


def source_id(chip: str, hwirq: int) -> RequesterId | None:
    """Return the requester id of a PCI MSI or MSI-X interrupt, by its topmost chip and number.

    Since v6.2 the chip names the device; before, all devices share one chip and the number holds
    the requester id in 26:11. None for other chips: those of drivers, the IO-APIC, the HPET.
    """
    if match := _DEVICE_CHIP.fullmatch(chip):
        bus, device, function = (int(part, 16) for part in match.groups())
        return RequesterId.of(bus, device, function)
    if chip in _SHARED_CHIPS:
        return RequesterId((hwirq >> 11) & 0xFFFF)
    return None
