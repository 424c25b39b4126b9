"""What stands where in the regions of the function: areas to count by, names to read."""

from __future__ import annotations

import enum

from harness.pci.config_space import ConfigSpace
from harness.pci.message_table import ENTRY_SIZE
from harness.spec.ims_function import (
    BAR_CONTROL,
    BAR_IMS,
    BAR_MSIX,
    BAR_MSIX_WINDOW,
    EVENT_BANKS,
    EVENT_SLOT_SIZE,
    IMS_PENDING_SIZE,
    MSIX_PBA_OFFSET,
    Register,
)
from harness.spec.interrupt import Store
from harness.spec.pci import CapabilityId, Header
from harness.spec.vfio import RegionIndex

_FIELDS = ("address", "address+4", "data", "control")
_EVENT_BANKS = Register.EVENT_MSI
_BANK_SIZE = Register.EVENT_IMS - Register.EVENT_MSIX
# Looked up for every interrupt, twice.
_BANKS = {int(bank): (store, slots) for store, (bank, slots) in EVENT_BANKS.items()}


class Area(enum.StrEnum):
    """The parts of the function's regions that are counted apart."""

    CONFIG = "config"
    """Config space, without the two capabilities below."""
    MSI = "msi"
    """The MSI capability: the store itself."""
    MSIX_CONTROL = "msix-control"
    """The MSI-X capability."""
    MSIX_TABLE = "msix-table"
    MSIX_PBA = "msix-pba"
    IMS = "ims"
    """The IMS array."""
    EVENTS = "events"
    """Event slots."""
    CONTROL = "control"
    """Control registers, without the event slots."""


class AddressMap:
    """Areas and names by region and offset."""

    def __init__(self, config: ConfigSpace):
        self._config = config

    def area(self, region: int, offset: int, count: int) -> Area:
        """Return the area that an access is counted in: of several in config space, the store."""
        if region == BAR_CONTROL:
            return Area.EVENTS if offset >= _EVENT_BANKS else Area.CONTROL
        if region == BAR_IMS:
            return Area.IMS
        if region == BAR_MSIX_WINDOW:
            return Area.MSIX_TABLE
        if region == BAR_MSIX:
            return Area.MSIX_TABLE if offset < MSIX_PBA_OFFSET else Area.MSIX_PBA
        if self._config.covers(CapabilityId.MSI, offset, count):
            return Area.MSI
        msix = (CapabilityId.MSIX, CapabilityId.VENDOR)
        if any(self._config.covers(capability, offset, count) for capability in msix):
            return Area.MSIX_CONTROL
        return Area.CONFIG

    def event_slot(self, offset: int) -> tuple[Store, int] | None:
        """Return the interrupt whose event slot is at an offset of the control BAR."""
        bank = offset & -_BANK_SIZE
        store, slots = _BANKS.get(bank, (Store.NONE, 0))
        index, within = divmod(offset - bank, EVENT_SLOT_SIZE)
        return (store, index) if index < slots and within == 0 else None

    def name(self, region: int, offset: int) -> str:
        """Return the name of what stands at an offset, for a reader of the log."""
        if region == BAR_CONTROL:
            return self._control_name(offset)
        if region == BAR_IMS:
            return f"IMS[{offset // ENTRY_SIZE}].{_FIELDS[offset // 4 % 4]}"
        if region == BAR_MSIX_WINDOW:
            return f"WINDOW[{offset // ENTRY_SIZE}].{_FIELDS[offset // 4 % 4]}"
        if region == BAR_MSIX:
            if offset < MSIX_PBA_OFFSET:
                return f"MSIX[{offset // ENTRY_SIZE}].{_FIELDS[offset // 4 % 4]}"
            return f"PBA[{(offset - MSIX_PBA_OFFSET) // 8}]"
        if region == RegionIndex.CONFIG:
            return self._config_name(offset)
        return f"+{offset:#x}"

    def _control_name(self, offset: int) -> str:
        if slot := self.event_slot(offset & -EVENT_SLOT_SIZE):
            return f"EVENT_{slot[0].name}[{slot[1]}]"
        if 0 <= offset - Register.IMS_PENDING < IMS_PENDING_SIZE:
            return f"IMS_PENDING[{(offset - Register.IMS_PENDING) // 4}]"
        try:
            return Register(offset & -4).name
        except ValueError:
            return f"+{offset:#x}"

    def _config_name(self, offset: int) -> str:
        for item in self._config.capabilities.values():
            if item.offset <= offset < item.end:
                return f"{item.id.name}+{offset - item.offset:#x}"
        below = [register for register in Header if register <= offset]
        return below[-1].name if offset < 0x40 else f"+{offset:#x}"
