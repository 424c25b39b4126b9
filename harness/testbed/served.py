"""A function served to a running machine, of any device model, and the IRTEs in front of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Generic, Protocol, TypeVar

from harness.devices.delivery import MessageGate, OpenGate
from harness.devices.virte_function.function import VirteFunction
from harness.errors import CheckFailed, HarnessError, ProtocolError
from harness.events.stream import Writer
from harness.host.deadline import Deadline, timeout_factor
from harness.host.workspace import nameless_listener
from harness.pci.config_space import ConfigSpace
from harness.qemu.command import BRIDGE, BRIDGED_SLOT, vfio_user_device
from harness.qemu.machine import Machine
from harness.qemu.pci import bar_address, secondary_bus
from harness.qemu.vitals import Vitals
from harness.remapping.unit import RemappingTable, UnitState
from harness.spec.msi import Message
from harness.spec.pci import RequesterId
from harness.spec.vtd import Entry, RemappedEntry
from harness.testbed.doorbell_gate import DoorbellGate
from harness.testbed.observer import Observer
from harness.testbed.platform import no_remapping
from harness.testbed.sender_watch import SenderWatch
from harness.testbed.source_gate import SourceGate
from harness.testbed.unit_watch import UnitWatch
from harness.vfio_user.device import Device
from harness.vfio_user.server import DeviceServer, device_server

GONE_SECONDS: Final = 5.0
"""How long a server may take to release a client that has gone."""

REPLY_SECONDS: Final = 5.0
"""How long QEMU waits for a reply of the server's, as it does by itself (hw/vfio-user/pci.c,
x-msg-timeout). It then reads ones in its place, and the guest's kernel would be blamed for them."""


class PciFunction(Device, Protocol):
    """What a machine needs of a device model: a device to serve that takes a gate and a stream.

    It is a context manager that gives back what the model owns; the machine holds it to its end.
    """

    @property
    def writer(self) -> Writer:
        """What writes all that happens to the function; it joins the machine's stream."""

    @property
    def config(self) -> ConfigSpace:
        """Its config space."""

    def guard(self, gate: MessageGate) -> None:
        """Let the messages that the function sends itself pass this gate. Called before it runs."""

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


Model = TypeVar("Model", bound=PciFunction)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a machine a function is plugged."""

    machine: Machine
    number: int
    """Among the functions of the machine."""
    bus: str
    """QEMU's name of the bus."""
    requester_id: RequesterId
    watch: UnitWatch | None
    """Of the remapping unit in front of it, if the machine has one."""

    @classmethod
    def behind(cls, port: int, machine: Machine, observer: Observer) -> Place:
        """Return the place behind a root port of a guest that has numbered its buses."""
        name = f"port{port}"
        bus = secondary_bus(machine.qmp, name)
        return cls(machine, port, name, RequesterId.of(bus), observer.unit_watch())

    @classmethod
    def bridged(cls, number: int, machine: Machine, observer: Observer) -> Place:
        """Return a place behind the PCI Express to PCI bridge of the machine."""
        own = RequesterId.of(secondary_bus(machine.qmp, BRIDGE), BRIDGED_SLOT + number)
        number += machine.spec.root_ports
        return cls(machine, number, BRIDGE, own, observer.unit_watch())

    @property
    def sender(self) -> RequesterId:
        """The source id that a remapping unit sees on what the function sends.

        A PCI Express to PCI bridge puts its own in the place of those behind it: its secondary bus,
        and zeros (PCI Express to PCI/PCI-X Bridge 1.0, 2.3; QEMU hw/pci/pci.c, pci_requester_id()).
        """
        return RequesterId.of(self.requester_id.bus) if self.bus == BRIDGE else self.requester_id

    @property
    def identifier(self) -> str:
        """QEMU's name of the function."""
        return f"function{self.number}"


class ServedFunction(Generic[Model]):
    """A function in a running machine. Made by ``Vm.plugged``."""

    def __init__(
        self,
        place: Place,
        model: Model,
        server: DeviceServer,
        doors: Sequence[VirteFunction] = (),
    ):
        self.place = place
        self.machine = place.machine
        self.model = model
        """The device's own view: events, accesses, stores."""
        self.server = server
        self.doors = doors
        """The functions of the vIRTE call in the machine."""
        self.requester_id = place.requester_id
        """Bus, device and function, as in the source id of an IRTE."""

    def check_alive(self) -> None:
        """Look whether all that stands between a test and the guest is still there.

        :raises Exception: as :func:`check_served`.
        """
        check_served(self.server, self.machine.vitals)

    @property
    def slot(self) -> str:
        """PCI name in the guest, e.g. ``0000:01:00.0``."""
        return self.requester_id.slot

    def bar_address(self, bar: int) -> int:
        """Return the guest physical address of a BAR.

        :raises HarnessError: it has none.
        """
        return bar_address(self.machine.qmp, self.place.identifier, bar)

    # IRTEs.

    @property
    def is_remapped(self) -> bool:
        """Whether messages of the function go through a remapping table now."""
        return self.place.watch is not None and self.place.watch.state().remapping_enabled

    def unit(self) -> UnitState:
        """Return the state of the remapping unit in front of the function.

        :raises CheckFailed: the guest has not enabled remapping.
        :raises HarnessError: the machine has none.
        """
        unit = self.place.watch.state() if self.place.watch else None
        if unit is None or not unit.remapping_enabled:
            if self.machine.spec.remaps_interrupts:
                raise no_remapping(self.machine.spec)
            raise HarnessError("there is no interrupt remapping in front of the function")
        return unit

    def table(self) -> RemappingTable:
        """Return the remapping table that the function's messages go through.

        :raises HarnessError: remapping is off.
        """
        return RemappingTable.of(self.unit(), self.machine.memory)

    def irtes(self) -> dict[int, Entry]:
        """Return the present IRTEs whose source id is this function, by index."""
        return {
            index: entry
            for index, entry in self.table().present_entries().items()
            if entry.source_id == self.requester_id
        }

    def irte(self, message: Message) -> Entry:
        """Return the IRTE that a message names.

        :raises CheckFailed: the message is in compatibility format, or names none.
        """
        request = message.decode() if message.is_interrupt else None
        index = getattr(request, "index", None)
        if index is None:
            raise CheckFailed(f"{message} does not name an IRTE")
        return self.table().read_entry(index)

    def destination(self, entry: RemappedEntry) -> int:
        """Return the destination in an IRTE, as this machine's APIC mode has it."""
        return entry.destination(extended_mode=self.unit().extended_mode)


def check_served(server: DeviceServer, vitals: Vitals) -> None:
    """Look whether a device, its client's connection and the machine are still there.

    Whoever finds that a guest did not do its part asks this first.

    :raises Exception: what the device raised.
    :raises HarnessError: what the machine was lost to, or that QEMU has left the device.
    """
    if server.lost_client:
        # Why it has gone may be known a moment later, to the device's thread or the machine's.
        server.wait_until_gone(Deadline(GONE_SECONDS, "the end of the device's server"))
        raise vitals.wait_lost() or ProtocolError("QEMU has left the device, and still runs")
    server.check()
    vitals.check()


@contextlib.contextmanager
def served_function(
    place: Place,
    model: Model,
    *,
    direct_dma: bool,
    doors: Sequence[VirteFunction],
    senders: SenderWatch,
) -> Iterator[ServedFunction[Model]]:
    """Hold a device model that is served and plugged in at a place, for as long as QEMU runs.

    :param direct_dma: it may use guest memory in place: QEMU maps its file shared.
    :param doors: the functions of the vIRTE call in the machine, now and later.
    :param senders: follows the MSI and MSI-X messages of the machine's functions.
    """
    machine = place.machine
    model.writer.join(machine.events, place.identifier)
    remapping = SourceGate(place.sender, place.watch) if place.watch else OpenGate()
    model.guard(DoorbellGate(place.sender, doors, remapping))
    with (
        model,
        nameless_listener() as (listener, path),
        device_server(
            model,
            listener,
            direct_dma=direct_dma,
            writer=model.writer,
        ) as server,
    ):
        slot = place.requester_id.device
        shared = place.sender != place.requester_id
        senders.add(path, place.sender, model.config, shared=shared)
        client = vfio_user_device(place.identifier, path, bus=place.bus, slot=slot)
        options = {
            "x-msg-timeout": round(1000 * REPLY_SECONDS * timeout_factor()),
            "x-no-posted-writes": isinstance(model, VirteFunction),  # for the SenderWatch
        }
        machine.plug({**client, **options})
        yield ServedFunction(place, model, server, doors)
