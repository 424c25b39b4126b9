"""The second MSI-X capability: a vendor's in the old scheme, and MSI-X in the new."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.devices.ims_function.config import config_space
from harness.devices.ims_function.msix_window import MsixWindow
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.errors import ConfigError
from harness.pci.config_space import ConfigSpace
from harness.spec.pci import CAPABILITIES_START, CapabilityId, MsixControl

AT = CAPABILITIES_START
ON = MsixControl(enable=1).value.to_bytes(2, "little")


@pytest.fixture
def config() -> ConfigSpace:
    return config_space(ImsFunctionSpec(msix_window=True, msix_vectors=9))


@pytest.fixture
def window(config: ConfigSpace) -> Iterator[MsixWindow]:
    window = MsixWindow(config, 9)
    yield window
    window.close()


def test_it_is_the_first_in_the_chain_and_a_vendors_after_power_on(config: ConfigSpace) -> None:
    assert config.get(AT, 1) == CapabilityId.VENDOR
    assert config.get(AT + 2, 1) == 12


def test_in_the_new_scheme_it_reads_as_msix(config: ConfigSpace, window: MsixWindow) -> None:
    window.show(new_scheme=True)
    assert config.get(AT, 1) == CapabilityId.MSIX
    assert MsixControl.unpack(config.get(AT + 2, 2)) == MsixControl(table_size=8)
    config.write(AT + 2, ON)
    assert window.enabled(0)


def test_in_the_old_scheme_it_cannot_be_enabled(config: ConfigSpace, window: MsixWindow) -> None:
    config.write(AT + 2, ON)
    assert not window.enabled(0)
    window.show(new_scheme=True)
    assert not window.enabled(0)


def test_while_it_is_enabled_its_form_stays(config: ConfigSpace, window: MsixWindow) -> None:
    window.show(new_scheme=True)
    config.write(AT + 2, ON)
    window.show(new_scheme=False)
    assert window.enabled(0)
    config.write(AT + 2, bytes(2))
    window.show(new_scheme=False)
    assert config.get(AT, 1) == CapabilityId.VENDOR


def test_the_function_mask_masks_every_entry(config: ConfigSpace, window: MsixWindow) -> None:
    window.show(new_scheme=True)
    window.write(12, bytes(4))
    assert not window.masked(0)
    config.write(AT + 2, MsixControl(enable=1, function_mask=1).value.to_bytes(2, "little"))
    assert window.masked(0)


def test_a_window_needs_a_table_to_take_the_place_of() -> None:
    with pytest.raises(ConfigError, match="msix_window"):
        ImsFunctionSpec(msix_window=True, msix_vectors=0)
