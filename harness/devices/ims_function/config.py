"""Config space of the IMS function, from its specification."""

from __future__ import annotations

from typing import Final

from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.pci.capabilities import express, msi, msix, msix_window
from harness.pci.config_space import ConfigSpace, Identity
from harness.spec import ims_function as regs

BAR_SIZES: Final = {
    regs.BAR_CONTROL: regs.BAR_CONTROL_SIZE,
    regs.BAR_MSIX: regs.BAR_MSIX_SIZE,
    regs.BAR_IMS: regs.BAR_IMS_SIZE,
}
"""BAR to its size in bytes."""


def config_space(spec: ImsFunctionSpec) -> ConfigSpace:
    """Return the config space of a function after power-on."""
    identity = Identity(
        vendor_id=spec.vendor_id,
        device_id=spec.device_id,
        subsystem_vendor_id=spec.subsystem_vendor_id,
        subsystem_id=spec.subsystem_id,
        class_code=regs.CLASS_CODE,
        revision=regs.REVISION,
    )
    chain = [express()]
    if spec.msix_vectors:
        table = msix(
            spec.msix_vectors,
            bar=regs.BAR_MSIX,
            table_offset=regs.MSIX_TABLE_OFFSET,
            pba_offset=regs.MSIX_PBA_OFFSET,
        )
        chain.insert(0, table)
    if spec.msi_vectors:
        messages = msi(
            spec.msi_vectors,
            address_64bit=spec.msi_64bit,
            per_vector_mask=spec.msi_per_vector_mask,
        )
        chain.insert(0, messages)
    sizes = dict(BAR_SIZES)
    if spec.msix_window:
        # First in the chain: a guest takes the first MSI-X capability that it finds.
        window = msix_window(
            spec.msix_vectors,
            bar=regs.BAR_MSIX_WINDOW,
            pba_bar=regs.BAR_MSIX,
            pba_offset=regs.MSIX_PBA_OFFSET,
        )
        chain.insert(0, window)
        sizes[regs.BAR_MSIX_WINDOW] = regs.BAR_IMS_SIZE
    return ConfigSpace(identity, sizes, chain)
