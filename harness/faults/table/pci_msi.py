"""Faults of PCI MSI and MSI-X in the kernel: drivers/pci/msi."""

from __future__ import annotations

from typing import Final

from harness.faults.change import always, immediate, never, skip
from harness.faults.fault import Fault
from harness.faults.place import call_of, entry_of, instruction
from harness.faults.seed import Patch, Together

IS_MASKED: Final = instruction(
    r"jne .*", within=("__pci_write_msi_msg", "pci_write_msg_msix"), behind=r"and \w+, 1"
)
"""Whether an entry of MSI-X is masked already when its message is written."""

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
        name="msix-message-is-not-read-back",
        imitates="an update of an entry that is still on its way (da181dc974ad)",
        seed=Patch(
            instruction(
                r"mov eax, dword ptr \[r\w+ \+ 8\]",
                within=("__pci_write_msi_msg", "pci_write_msg_msix"),
                behind=r"mov dword ptr \[r\w+ \+ 8\], \w+",
            ),
            skip,
        ),
        rows=("E1",),
        tests=("test_trapping.py",),
    ),
    Fault(
        name="msix-entry-is-masked-again",
        imitates="accesses that change nothing, each of which costs a trap (shape)",
        seed=Patch(IS_MASKED, never),
        rows=("E1",),
        tests=("test_trapping.py",),
    ),
    Fault(
        name="msix-entry-is-rewritten-live",
        imitates="an entry of MSI-X changed while it is unmasked (b9255a7cb517)",
        seed=Together(
            (
                # A move from an interrupt masks the entry itself, whatever the store does.
                Patch(
                    instruction(r"jne .*", within="__irq_move_irq", behind=r"test \w+, 0x20000"),
                    always,
                ),
                Patch(IS_MASKED, always),
            )
        ),
        rows=("G2",),
        tests=("test_store_order.py::test_a_move_that_rewrites_the_entry_masks_it_meanwhile",),
        machine="no-iommu",
    ),
    Fault(
        name="msi-mask-loses-an-update",
        imitates="the mask cache of multi-message MSI loses an update (77e89afc25f3)",
        seed=Patch(
            instruction(
                r"mov dword ptr \[\w+ \+ 0x(48|50)\], \w+",
                within=("pci_msi_update_mask", "pci_msi_mask_irq", "pci_msi_unmask_irq"),
                behind="_raw_spin_lock_irqsave",
            ),
            skip,
        ),
        rows=("A1",),
        tests=("test_msi.py",),
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
        tests=(
            "test_teardown.py::test_unbinding_the_driver_frees_everything_that_is_still_in_use",
        ),
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
