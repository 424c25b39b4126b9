"""Config space: what a guest can change, and how capabilities are found."""

from __future__ import annotations

import pytest

from harness.devices.ims_function.config import BAR_SIZES, config_space
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.errors import ConfigError
from harness.pci.config_space import ConfigSpace
from harness.spec.pci import CapabilityId, Command, Header


def walk_chain(config: ConfigSpace) -> dict[int, int]:
    """Return capability id to offset, found as an operating system finds them."""
    found = {}
    pointer = config.get(0x34, 1)
    while pointer:
        found[config.get(pointer, 1)] = pointer
        pointer = config.get(pointer + 1, 1)
    return found


def test_the_ids_stand_where_the_specification_puts_them() -> None:
    config = config_space(ImsFunctionSpec(vendor_id=0x1234, device_id=0xABCD))
    assert config.read(0, 4) == bytes.fromhex("3412 cdab")
    assert config.read(0x08, 4) == bytes.fromhex("01 008008")


@pytest.mark.parametrize("bar", sorted(BAR_SIZES))
def test_sizing_a_bar_reads_back_its_size(bar: int) -> None:
    config = config_space(ImsFunctionSpec())
    config.write(Header.BAR0 + 4 * bar, b"\xff" * 4)
    assert -config.get(Header.BAR0 + 4 * bar, 4) & 0xFFFFFFFF == BAR_SIZES[bar]


@pytest.mark.parametrize("bar", [1, 3, 5])
def test_a_bar_that_is_not_there_sizes_to_nothing(bar: int) -> None:
    config = config_space(ImsFunctionSpec())
    config.write(Header.BAR0 + 4 * bar, b"\xff" * 4)
    assert config.get(Header.BAR0 + 4 * bar, 4) == 0


def test_a_bar_keeps_the_address_it_is_given() -> None:
    config = config_space(ImsFunctionSpec())
    config.write(Header.BAR0, (0xFE801230).to_bytes(4, "little"))
    assert config.get(Header.BAR0, 4) == 0xFE800000


def test_of_the_command_register_only_what_the_function_does_can_be_set() -> None:
    config = config_space(ImsFunctionSpec())
    config.write(Header.COMMAND, b"\xff\xff")
    assert Command.unpack(config.get(Header.COMMAND, 2)) == Command(
        memory_space=1, bus_master=1, parity_error_response=1, serr_enable=1
    )
    assert config.bus_master


def test_everything_read_only_survives_a_write_of_ones_and_a_write_of_zeroes() -> None:
    config = config_space(ImsFunctionSpec())
    before = config.read(0, 4096)
    config.write(0, b"\xff" * 4096)
    config.write(0, bytes(4096))
    writable = config.capabilities[CapabilityId.EXPRESS].offset + 8
    after = bytearray(config.read(0, 4096))
    after[writable : writable + 2] = before[writable : writable + 2]  # starts with bits set
    assert bytes(after) == before


def test_reset_undoes_every_write() -> None:
    config = config_space(ImsFunctionSpec())
    before = config.read(0, 4096)
    config.write(0, b"\xff" * 4096)
    config.reset()
    assert config.read(0, 4096) == before


def test_the_chain_leads_to_every_capability_and_ends() -> None:
    assert list(walk_chain(config_space(ImsFunctionSpec()))) == [0x05, 0x11, 0x10]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ImsFunctionSpec(msi_vectors=0), [0x11, 0x10]),
        (ImsFunctionSpec(msix_vectors=0), [0x05, 0x10]),
        (ImsFunctionSpec(msi_vectors=0, msix_vectors=0), [0x10]),
    ],
)
def test_a_capability_that_is_not_asked_for_is_not_in_the_chain(
    spec: ImsFunctionSpec, expected: list[int]
) -> None:
    assert list(walk_chain(config_space(spec))) == expected


@pytest.mark.parametrize(
    ("is_64bit", "per_vector_mask", "flags", "size"),
    [  # flags and sizes: figures 7-45 to 7-48; Linux v6.12 PCI_CAP_MSI_SIZEOF
        (False, False, 0x00, 0x0A),
        (True, False, 0x80, 0x0E),
        (False, True, 0x100, 0x14),
        (True, True, 0x180, 0x18),
    ],
)
def test_each_shape_of_msi_has_its_own_flags_and_size(
    is_64bit: bool, per_vector_mask: bool, flags: int, size: int
) -> None:
    config = config_space(
        ImsFunctionSpec(msi_vectors=8, msi_64bit=is_64bit, msi_per_vector_mask=per_vector_mask)
    )
    item = config.capabilities[CapabilityId.MSI]
    assert len(item.reset) == size
    assert config.get(item.offset + 2, 2) == flags | 3 << 1


def test_msix_names_its_size_less_one_and_both_parts_of_bar_2() -> None:
    config = config_space(ImsFunctionSpec(msix_vectors=2048))
    place = config.capabilities[CapabilityId.MSIX].offset
    assert config.read(place + 2, 10) == bytes.fromhex("ff07 02000000 02800000")


def test_a_capability_covers_its_bytes_and_no_others() -> None:
    config = config_space(ImsFunctionSpec())
    item = config.capabilities[CapabilityId.MSI]
    assert config.covers(CapabilityId.MSI, item.offset, 1)
    assert config.covers(CapabilityId.MSI, item.end - 1, 4)
    assert not config.covers(CapabilityId.MSI, item.end, 4)
    assert not config.covers(CapabilityId.MSI, item.offset - 4, 4)


@pytest.mark.parametrize(
    "field",
    [
        {"msi_vectors": 3},
        {"msi_vectors": 64},
        {"msix_vectors": 2049},
        {"msix_vectors": -1},
        {"ims_entries": 2049},
        {"vendor_id": 0x10000},
    ],
)
def test_a_number_that_no_device_can_have_is_refused_by_name(field: dict[str, int]) -> None:
    (name,) = field
    with pytest.raises(ConfigError, match=name):
        ImsFunctionSpec(**field)  # type: ignore[arg-type]
