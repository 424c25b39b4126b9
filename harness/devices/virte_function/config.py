"""Config space of the function that carries the call."""

from __future__ import annotations

from typing import Final

from harness.pci.capabilities import express
from harness.pci.config_space import ConfigSpace, Identity
from harness.spec import hypercall as regs
from harness.spec.pci import BAR_ADDRESS_MASK, Header

BAR_SIZES: Final = {
    regs.BAR_REGISTERS: regs.BAR_REGISTERS_SIZE,
    regs.BAR_FRAMES: regs.BAR_FRAMES_SIZE,
    regs.BAR_DOORBELLS: regs.BAR_DOORBELLS_SIZE,
}
"""BAR to its size in bytes."""


def config_space() -> ConfigSpace:
    """Return the config space of a function after power-on."""
    identity = Identity(
        vendor_id=regs.VENDOR_ID,
        device_id=regs.DEVICE_ID,
        subsystem_vendor_id=regs.VENDOR_ID,
        subsystem_id=regs.DEVICE_ID,
        class_code=regs.CLASS_CODE,
        revision=regs.REVISION,
    )
    return ConfigSpace(identity, BAR_SIZES, [express()])


def doorbell_address(config: ConfigSpace) -> int:
    """Return where the guest has placed the doorbell pages."""
    return config.get(Header.BAR0 + 4 * regs.BAR_DOORBELLS, 4) & BAR_ADDRESS_MASK
