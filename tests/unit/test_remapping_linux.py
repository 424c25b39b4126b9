"""Linux's names and numbers, as stock kernels print them, against what they stand for."""

from __future__ import annotations

import pytest

from harness.remapping.linux import entry_index, source_id


@pytest.mark.parametrize(
    ("hwirq", "index"),
    [
        (0x0010_0000, 16),
        (0x0020_0003, 35),
        (0x7FFF_0000, 0x7FFF),
        # (int)(8000h << 16) is negative, and the kernel's hwirq is an unsigned long.
        (0xFFFF_FFFF_8000_0000, 0x8000),
        (0xFFFF_FFFF_FFFF_0000, 0xFFFF),
        (0xFFFF_FFFF_FFE0_001F, 0xFFFF),
    ],
)
def test_a_hardware_number_of_the_remapping_domain_gives_the_entry(hwirq: int, index: int) -> None:
    assert entry_index(hwirq) == index


@pytest.mark.parametrize(
    ("chip", "hwirq", "sender"),
    [
        # v6.1: 00:03.0, then vectors 0 and 2 of 01:00.0.
        ("IR-PCI-MSI", 49152, 0x0018),
        ("IR-PCI-MSI", 524288, 0x0100),
        ("PCI-MSI", 524290, 0x0100),
        # The PCI domain stands above: 0001:01:00.0.
        ("IR-PCI-MSI", 1 << 27 | 524288, 0x0100),
        # v6.12 and v7.2.
        ("IR-PCI-MSIX-0000:01:00.0", 2, 0x0100),
        ("PCI-MSI-0000:00:1f.7", 0, 0x00FF),
        ("IR-PCI-MSI-10000:e1:00.1", 0, 0xE101),
        ("IR-IO-APIC", 2, None),
        ("IMS", 49152, None),
        ("DMAR-MSI", 0, None),
    ],
)
def test_chip_and_number_give_the_sender_of_a_pci_interrupt(
    chip: str, hwirq: int, sender: int | None
) -> None:
    assert source_id(chip, hwirq) == sender
