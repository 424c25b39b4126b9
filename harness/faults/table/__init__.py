"""The table of faults: one module for each place that they are seeded into.

A fault is the shape of one that Linux or a hypervisor has had (the commit is that of its fix), or
one beside it. Rows are those whose tests should notice.
"""

from __future__ import annotations

from typing import Final

from harness.faults.fault import Fault
from harness.faults.table.device import DEVICE_FAULTS
from harness.faults.table.driver import DRIVER_FAULTS
from harness.faults.table.hypervisor import HYPERVISOR_FAULTS
from harness.faults.table.pci_msi import PCI_MSI_FAULTS
from harness.faults.table.remapping import REMAPPING_FAULTS
from harness.faults.table.vectors import VECTOR_FAULTS
from harness.schema.names import choose

FAULTS: Final = {
    fault.name: fault
    for fault in (
        *REMAPPING_FAULTS,
        *VECTOR_FAULTS,
        *PCI_MSI_FAULTS,
        *DRIVER_FAULTS,
        *DEVICE_FAULTS,
        *HYPERVISOR_FAULTS,
    )
}
"""Every fault by its name."""


def choose_fault(name: str) -> Fault:
    """Return the fault of a name.

    :raises ConfigError: there is none; says which there are.
    """
    return choose(FAULTS, name, what="fault")
