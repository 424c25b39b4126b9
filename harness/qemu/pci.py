# Ref: QEMU 11.1, qapi/pci.json (query-pci).
"""Where functions are in a running machine, as the guest has programmed it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from harness.errors import HarnessError
from harness.qemu.qmp import QmpSession
from harness.spec.pci import RequesterId

_UNITS: Final = {1: "b", 2: "h", 4: "w"}
"""Size of an access to the monitor's name for it (xp)."""


def secondary_bus(qmp: QmpSession, port: str) -> int:
    """Return the number of the bus behind a root port.

    :raises HarnessError: there is no such port, or nobody has given it a bus.
    """
    bus = int(_find(qmp, port)["pci_bridge"]["bus"]["secondary"])
    if not bus:
        raise HarnessError(f"the guest has not given {port} a bus")
    return bus


def bar_address(qmp: QmpSession, identifier: str, bar: int) -> int:
    """Return the guest physical address of a function's BAR.

    :raises HarnessError: there is no such function, or the BAR has no address.
    """
    for region in _find(qmp, identifier)["regions"]:
        if region["bar"] == bar:
            return int(region["address"])
    raise HarnessError(f"{identifier} has no BAR {bar} that is mapped")


def msix_table_size(qmp: QmpSession, identifier: str) -> int:
    """Return how long the MSI-X table of a function that QEMU emulates is, in bytes.

    :raises MonitorCommandError: there is no such function, or it has none.
    """
    table = f"/machine/peripheral/{identifier}/msix-table[0]"
    return int(qmp.execute("qom-get", {"path": table, "property": "size"}))


def read_config(qmp: QmpSession, function: RequesterId, offset: int, size: int) -> int:
    """Return a register of a function's config space, as a CPU would read it through ECAM.

    :raises HarnessError: the guest has not mapped config space.
    """
    place = re.search(
        r"^ *([0-9a-f]+)-[0-9a-f]+ .*: pcie-mmcfg-mmio$", qmp.human("info mtree"), re.M
    )
    if place is None:
        raise HarnessError("config space is not mapped: the guest has not set PCIEXBAR")
    address = int(place[1], 16) + (function << 12) + offset
    return int(qmp.human(f"xp /1{_UNITS[size]}x {address:#x}").split()[-1], 16)


def _find(qmp: QmpSession, identifier: str) -> Mapping[str, Any]:
    for device in _devices(qmp):
        if device["qdev_id"] == identifier:
            return device
    raise HarnessError(f"QEMU has no device {identifier}")


def _devices(qmp: QmpSession) -> Iterator[Mapping[str, Any]]:
    for bus in qmp.execute("query-pci"):
        for device in bus["devices"]:
            yield device
            yield from device.get("pci_bridge", {}).get("devices", [])
