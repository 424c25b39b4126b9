# Ref: PCI Local Bus Specification 3.0, section 6.8 (MSI, MSI-X); the numbers are those of
#      docs/device.md: "Store" in descriptors and event banks.
"""The kinds of interrupt message stores."""

from __future__ import annotations

import enum


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
