"""What an IMS function is made of: the choices of one device, as data."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import ConfigError
from harness.spec import ims_function as regs
from harness.spec.interrupt import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class ImsFunctionSpec:
    """One IMS function.

    :raises ConfigError: a number is outside what the register map or the PCI specification allows.
    """

    msi_vectors: int = 32
    """Messages that MSI can use: 1, 2, 4, 8, 16 or 32; 0 leaves the capability out."""
    msi_64bit: bool = True
    """Whether the MSI address has an upper half."""
    msi_per_vector_mask: bool = True
    """Whether MSI has mask and pending bits."""
    msix_vectors: int = regs.MSIX_DEFAULT
    """Entries of the MSI-X table, up to 2048; 0 leaves the capability out."""
    msix_noresize: bool = False
    """Report VFIO_IRQ_INFO_NORESIZE for MSI-X: the host must free all vectors to add one."""
    msix_window: bool = False
    """Have a second, mapped MSI-X table, which takes the first one's place in the new scheme."""
    ims_entries: int = regs.IMS_ENTRIES
    """Entries of the IMS array, up to 2048."""
    ims_mapped: bool = False
    """Let the client map the IMS array: its stores are then no accesses that anybody sees."""
    vendor_id: int = regs.VENDOR_ID
    """PCI vendor id."""
    device_id: int = regs.DEVICE_ID
    """PCI device id."""
    subsystem_vendor_id: int = regs.VENDOR_ID
    """PCI subsystem vendor id."""
    subsystem_id: int = regs.DEVICE_ID
    """PCI subsystem id."""

    def __post_init__(self) -> None:
        if self.msi_vectors not in (0, 1, 2, 4, 8, 16, 32):
            raise ConfigError(
                f"msi_vectors: {self.msi_vectors} is neither 0 nor a power of two up to 32"
            )
        if self.msix_window and not self.msix_vectors:
            raise ConfigError("msix_window: there is no MSI-X whose place it could take")
        for name, maximum in (
            ("msix_vectors", regs.MSIX_MAX),
            ("ims_entries", regs.IMS_ENTRIES),
            ("vendor_id", 0xFFFF),
            ("device_id", 0xFFFF),
            ("subsystem_vendor_id", 0xFFFF),
            ("subsystem_id", 0xFFFF),
        ):
            value = getattr(self, name)
            if not 0 <= value <= maximum:
                raise ConfigError(f"{name}: {value} is not in 0..{maximum}")

    def count(self, store: Store) -> int:
        """Return how many interrupts a store can hold."""
        return {
            Store.MSI: self.msi_vectors,
            Store.MSIX: self.msix_vectors,
            Store.IMS: self.ims_entries,
        }.get(store, 0)
