# Ref: QEMU 11.1, hw/vfio/pci.c: vfio_pci_realize() ("QEMU emulates all of MSI & MSIX"),
#      vfio_add_std_cap() (of another capability, only the pointer to the next is QEMU's);
#      Linux, drivers/pci/msi/msi.c, pci_msix_init() (the first MSI-X capability is taken).
"""The MSI-X store of the new scheme: a table in memory that the guest maps (row E4).

QEMU puts a table of its own over the one that it finds as it takes a device, and serves the MSI-X
capability itself; nothing at run time ends that. So the function has a second capability ahead of
it, which QEMU takes for a vendor's and passes through. In the old scheme that is all it is. In the
new one it reads as MSI-X, with its table in a BAR that is mapped; a guest that enumerates the
function anew finds it first. What stands there is the host's pair, and nobody has to see it.
"""

from __future__ import annotations

from harness.devices.ims_function.ims import ImsStore
from harness.pci.config_space import ConfigSpace
from harness.spec import ims_function as regs
from harness.spec.pci import CapabilityId, MsixControl


class MsixWindow(ImsStore):
    """State of the second MSI-X store: an array as that of IMS, with MSI-X's control register.

    :param config: the function's config space, which has the capability.
    """

    def __init__(self, config: ConfigSpace, count: int):
        super().__init__(count, mapped=True)
        self._config = config
        self._at = config.capabilities[CapabilityId.VENDOR].offset
        self._count = count

    @property
    def control(self) -> MsixControl:
        """The control register; nothing is on while the capability is a vendor's."""
        if self._config.get(self._at, 1) != CapabilityId.MSIX:
            return MsixControl()
        return MsixControl.unpack(self._config.get(self._at + 2, 2))

    def show(self, new_scheme: bool) -> None:
        """Take the form of a scheme. What is in use stays: the guest has to let it go first."""
        if self.control.enable:
            return
        shown = CapabilityId.MSIX if new_scheme else CapabilityId.VENDOR
        if self._config.get(self._at, 1) == shown:
            return
        self._config.set(self._at, 1, shown)
        length = MsixControl(table_size=self._count - 1).value if new_scheme else VENDOR_LENGTH
        self._config.set(self._at + 2, 2, length)

    def enabled(self, index: int) -> bool:
        """Whether the store is on."""
        return bool(self.control.enable)

    def masked(self, index: int, *, wired: bool = False) -> bool:
        """Whether the function mask or the entry's own mask bit is set."""
        return bool(self.control.function_mask) or super().masked(index)


VENDOR_LENGTH = 12
"""Length of the capability as a vendor's: it stands where MSI-X has its control register."""
assert regs.BAR_IMS_SIZE == regs.MSIX_MAX * 16  # one size of array serves both
