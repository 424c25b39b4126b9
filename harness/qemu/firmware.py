# Ref: QEMU 11.1, hw/i386/acpi-build.c (build_dmar_q35), hw/acpi/core.c (acpi_table_add); Linux
#      kernel Documentation/admin-guide/acpi/initrd_table_override.rst
"""The ACPI tables of a machine that QEMU does not make by itself. Pure: nothing is written here.

A new table is given to QEMU, whose firmware hands it on. A table in the place of one of QEMU's is
given to the kernel, ahead of its initramfs: QEMU would only put it beside its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from harness.host.cpio import Entry, archive
from harness.spec import acpi_dmar
from harness.spec.acpi import TableHeader
from harness.spec.acpi_dmar import DeviceScope, Dmar, DmarFlags, RemappingUnit, ScopeType
from harness.spec.acpi_vire import ImsUse, Vire
from harness.spec.pci import RequesterId

if TYPE_CHECKING:
    from harness.qemu.command import Iommu, MachineSpec

UPGRADES: Final = "kernel/firmware/acpi"
"""Where the kernel looks for tables, in an archive ahead of the initramfs."""

_UNIT_ADDRESS: Final = 0xFED9_0000
"""Of the remapping unit's registers (Q35_HOST_BRIDGE_IOMMU_ADDR)."""
_PLATFORM_BUS: Final = 0xFF
"""Bus of the IO/APIC as the unit sees it (Q35_PSEUDO_BUS_PLATFORM)."""
_ADDRESS_WIDTH: Final = 48
"""Bits of a DMA address (property aw-bits)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VireTable:
    """The table VIRE of a machine: the vendor-neutral flag, and where the call's function is."""

    ims: Literal["undefined", "direct", "call"]
    """How IMS may be used: MSI and MSI-X only, pairs of the kernel's own work, a call is needed."""
    function: str = "0000:01:00.0"
    """PCI address of the function that carries the call; the default is that of port0's device."""

    def __post_init__(self) -> None:
        RequesterId.parse(self.function)

    def pack(self, *, oem_revision: int = 1) -> bytes:
        """Return the table."""
        function = RequesterId.parse(self.function)
        return Vire(ims=ImsUse[self.ims.upper()], function=function).pack(oem_revision=oem_revision)


FirmwareFault = Literal["vire-twice", "dmar-twice", "dmar-checksum"]
"""A table that is there twice, in two versions: of two that are the same, Linux itself drops one.
Or the upgrade of a table with a wrong check sum: Linux refuses it, and goes by the table it has."""


@dataclass(frozen=True, slots=True)
class Firmware:
    """Tables by the way they are given."""

    added: tuple[bytes, ...] = ()
    """Put beside QEMU's own (option -acpitable)."""
    upgrades: tuple[bytes, ...] = ()
    """Put by the kernel in the place of the firmware's."""

    @property
    def archive(self) -> bytes:
        """The upgrades as what stands ahead of an initramfs; nothing if there are none."""
        entries = [
            Entry.file(f"{UPGRADES}/{number}.aml", table)
            for number, table in enumerate(self.upgrades)
        ]
        return archive(entries) if entries else b""


def firmware(spec: MachineSpec) -> Firmware:
    """Return the tables of a machine."""
    added = [spec.vire.pack()] if spec.vire else []
    if spec.vire and spec.firmware_fault == "vire-twice":
        added.append(spec.vire.pack(oem_revision=2))
    if spec.iommu and spec.firmware_fault == "dmar-twice":
        added.append(q35_dmar(spec.iommu).pack())
    upgrades = []
    if spec.iommu and spec.iommu.ims:
        upgrades.append(q35_dmar(spec.iommu).saying_ims(spec.iommu.ims == "allowed").pack())
        if spec.firmware_fault == "dmar-checksum":
            upgrades[0] = upgrades[0][:-1] + bytes([upgrades[0][-1] ^ 1])
    return Firmware(tuple(added), tuple(upgrades))


def q35_dmar(iommu: Iommu) -> Dmar:
    """Return the table by which QEMU's firmware describes a machine's IOMMU.

    QEMU names each device of the root bus as the unit's; that it has every one says the same. What
    it says about ATS is left out: no device of ours has that.
    """
    ioapic = DeviceScope(ScopeType.IOAPIC, 0, _PLATFORM_BUS, ((0, 0),))
    return Dmar(
        units=(RemappingUnit(address=_UNIT_ADDRESS, scopes=(ioapic,)),),
        address_width=_ADDRESS_WIDTH,
        flags=DmarFlags.INTR_REMAP if iommu.interrupt_remapping else DmarFlags(0),
        # As QEMU names itself: what does not is no upgrade of QEMU's table.
        header=TableHeader(
            signature=acpi_dmar.SIGNATURE,
            revision=acpi_dmar.OLD_REVISION,
            oem_id="BOCHS ",
            oem_table_id="BXPC    ",
            creator_id="BXPC",
        ),
    )


def file_name(number: int, table: bytes) -> str:
    """Return what the file of an added table is called."""
    return f"acpi-{number}-{table[:4].decode('latin-1')}.aml"
