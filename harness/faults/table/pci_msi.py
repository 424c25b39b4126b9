"""Faults of PCI MSI and MSI-X in the kernel: drivers/pci/msi."""

from __future__ import annotations

from typing import Final

from harness.faults.change import immediate, skip
from harness.faults.fault import Fault
from harness.faults.place import call_of, entry_of, instruction
from harness.faults.seed import Patch

PCI_MSI_FAULTS: Final = (
    Fault(
        name="msix-mask-is-not-written",
        imitates="vectors left unmasked (83dbf898a2d4)",
        seed=Patch(entry_of("pci_irq_mask_msix", "pci_msi_mask_irq"), skip),
        rows=("A2", "G2"),
        tests=("test_msix.py",),
    ),
    Fault(
        name="msix-mask-is-not-read-back",
        imitates="a mask that is still on its way when disable returns (b9255a7cb517)",
        seed=Patch(
            instruction(
                r"mov \w+, dword ptr \[\w+\]",
                within=("pci_irq_mask_msix", "pci_msi_mask_irq", "__pci_msi_mask_desc"),
            ),
            skip,
        ),
        rows=("G2",),
        tests=("test_store_order.py",),
    ),
    Fault(
        name="msix-unmask-is-not-written",
        imitates="vectors left masked (83dbf898a2d4)",
        seed=Patch(entry_of("pci_irq_unmask_msix", "pci_msi_unmask_irq"), skip),
        rows=("A2",),
        tests=("test_msix.py",),
    ),
    Fault(
        name="msix-message-without-address",
        imitates="a message torn while it is written: one part is old (6f1a4891a592)",
        seed=Patch(instruction(r"mov dword ptr \[r\w+\], \w+", within="__pci_write_msi_msg"), skip),
        rows=("A2",),
        tests=("test_msix.py",),
    ),
    Fault(
        name="msi-mask-is-not-written",
        imitates="a device with mask bits treated as if it had none (b56ebe7c896d)",
        seed=Patch(call_of("pci_write_config_dword", within="pci_msi_update_mask"), skip),
        rows=("A1",),
        tests=("test_msi.py",),
    ),
    Fault(
        name="msi-one-message-enabled",
        imitates="not every message of a multi-message MSI is enabled (4c457e8cb75e)",
        seed=Patch(
            instruction(
                r"or \w+, \w+",
                within=("__pci_write_msi_msg", "pci_write_msg_msi"),
                behind="and edx, 0xffffff8f",
            ),
            skip,
        ),
        rows=("A1",),
        tests=("test_msi.py",),
    ),
    Fault(
        name="msix-stays-enabled-at-teardown",
        imitates="teardown without shutting the capability down (dbbc93576e03)",
        seed=Patch(
            instruction(r"and \w+, 0x7fff", within=("pci_msix_shutdown", "pci_disable_msix")),
            immediate(0xFFFF),
        ),
        rows=("B6",),
        tests=("test_teardown.py",),
    ),
    Fault(
        name="msi-message-without-address",
        imitates="a message torn while it is written: one part is old (6f1a4891a592)",
        seed=Patch(
            call_of("pci_write_config_dword", within=("__pci_write_msi_msg", "pci_write_msg_msi")),
            skip,
        ),
        rows=("A1",),
        tests=("test_msi.py",),
    ),
    Fault(
        name="msi-message-without-data",
        imitates="a message torn while it is written: one part is old (6f1a4891a592)",
        seed=Patch(
            # Its first is the control register's.
            call_of(
                "pci_write_config_word",
                within=("__pci_write_msi_msg", "pci_write_msg_msi"),
                behind="pci_write_config_dword",
            ),
            skip,
        ),
        rows=("A1",),
        tests=("test_msi.py::test_the_low_bits_of_base_data_that_is_not_zero_are_replaced",),
        machine="no-iommu",
    ),
)
