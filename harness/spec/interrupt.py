# Ref: PCI Local Bus Specification 3.0, section 6.8 (MSI, MSI-X); the numbers are those of
#      docs/device.md: "Store" in descriptors and event banks.
"""The kinds of interrupt message stores, and the name of an interrupt in one."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from harness.spec.pci import RequesterId


class Store(enum.IntEnum):
    """Where an interrupt message is held."""

    NONE = 0
    """No interrupt."""
    MSI = 1
    """PCI MSI, in config space."""
    MSIX = 2
    """PCI MSI-X, in a table in a BAR."""
    IMS = 3
    """Interrupt Message Store: wherever a device likes; here in an array in its memory."""


@dataclass(frozen=True, slots=True)
class InterruptName:
    """Which interrupt is meant: what the device, the guest and the audit know it by."""

    store: Store
    index: int
    """Place in the store."""
    function: RequesterId | None = None
    """Whose it is; None: of the function that is spoken of."""
    queue: int | None = None
    """Whose context holds it, where a store is spread over queues."""
    pasid: int | None = None
    """The address space that it is bound to."""

    def __str__(self) -> str:
        places = [self.store.name, str(self.index)]
        places += [f"of {self.function}"] if self.function is not None else []
        places += [f"queue {self.queue}"] if self.queue is not None else []
        places += [f"PASID {self.pasid}"] if self.pasid is not None else []
        return " ".join(places)
