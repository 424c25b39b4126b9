"""Which ACPI tables a machine is given, and by which way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.qemu import command
from harness.qemu.command import Iommu, MachineSpec, Wiring
from harness.qemu.firmware import VireTable, firmware, q35_dmar
from harness.spec.acpi_dmar import Dmar, DmarFlags
from harness.spec.acpi_vire import ImsUse, Vire
from harness.spec.pci import RequesterId


def spec(**changes: Any) -> MachineSpec:
    return MachineSpec(**{"name": "m", "description": "a machine", "iommu": Iommu(), **changes})


def test_a_machine_without_a_word_on_it_has_qemus_tables_alone() -> None:
    tables = firmware(spec())
    assert (tables.added, tables.upgrades, tables.archive) == ((), (), b"")


def test_a_vire_table_is_added() -> None:
    (table,) = firmware(spec(vire=VireTable(ims="call", function="0000:02:03.1"))).added
    expected = Vire(ims=ImsUse.CALL, function=RequesterId.of(2, 3, 1))
    assert Vire.unpack(table) == expected


@pytest.mark.parametrize(("word", "allowed"), [("allowed", True), ("disallowed", False)])
def test_a_dmar_table_of_the_new_format_is_an_upgrade_of_qemus(word: Any, allowed: bool) -> None:
    tables = firmware(spec(iommu=Iommu(ims=word)))
    (table,) = tables.upgrades
    dmar, qemus = Dmar.unpack(table), q35_dmar(Iommu())
    assert (dmar.ims_allowed, qemus.ims_allowed) == (allowed, None)
    assert dmar.units == qemus.units
    # Linux takes it for an upgrade of the same maker's table only, and of a later version.
    assert dmar.header.oem_id == qemus.header.oem_id
    assert dmar.header.oem_table_id == qemus.header.oem_table_id
    assert dmar.header.oem_revision > qemus.header.oem_revision
    assert b"kernel/firmware/acpi/0.aml\0" in tables.archive
    assert table in tables.archive


def test_a_unit_that_does_not_remap_interrupts_is_not_said_to() -> None:
    assert DmarFlags.INTR_REMAP not in q35_dmar(Iommu(interrupt_remapping=False)).flags


def test_a_table_that_is_there_twice_differs() -> None:
    vire = VireTable(ims="direct")
    one, other = firmware(spec(vire=vire, firmware_fault="vire-twice")).added
    assert one != other
    assert Vire.unpack(one) == Vire.unpack(other)
    tables = firmware(spec(iommu=Iommu(ims="allowed"), firmware_fault="dmar-twice"))
    assert [Dmar.unpack(table).ims_allowed for table in (*tables.added, *tables.upgrades)] == [
        None,
        True,
    ]


def test_an_upgrade_with_a_wrong_check_sum_is_one() -> None:
    (table,) = firmware(spec(iommu=Iommu(ims="allowed"), firmware_fault="dmar-checksum")).upgrades
    with pytest.raises(ValueError, match="add up to"):
        Dmar.unpack(table)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"firmware_fault": "vire-twice"}, "vire-twice needs vire"),
        ({"firmware_fault": "dmar-twice", "iommu": None}, "dmar-twice needs iommu"),
        ({"firmware_fault": "dmar-checksum"}, "dmar-checksum needs iommu with ims"),
    ],
)
def test_a_fault_of_a_table_that_is_not_there_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        spec(**changes)


def test_a_function_that_is_no_pci_address_is_refused() -> None:
    with pytest.raises(ValueError, match="not a PCI address: 'port0'"):
        VireTable(ims="call", function="port0")


def test_an_added_table_is_an_option_of_qemu_and_its_path_has_no_colon() -> None:
    wiring = Wiring(acpi_tables=(Path("/runs/a,b/acpi-0-VIRE.aml"),))
    options = command.options(spec(), wiring)
    assert ("-acpitable", "file=/runs/a,,b/acpi-0-VIRE.aml") in options
    wiring = replace(wiring, acpi_tables=(Path("/runs/a:b/VIRE.aml"),))
    with pytest.raises(ConfigError, match="colon"):
        command.options(spec(), wiring)
