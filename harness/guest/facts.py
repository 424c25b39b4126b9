# Ref: docs/guest-module.md, "Answers"; guests/control/module.c and system.c write them.
"""Facts that imsctl reports, from JSON into frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from harness.errors import ProtocolError
from harness.schema.convert import ByName, Misfit, convert
from harness.spec.ims_function import Status
from harness.spec.interrupt import InterruptName, Store
from harness.spec.msi import Message

JsonObject = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Interrupt:
    """One allocated interrupt of the function, as the guest's kernel knows it."""

    store: Annotated[Store, ByName()]
    index: int
    virq: int
    """Linux interrupt number."""
    hwirq: int
    """Number in the topmost IRQ domain."""
    requested: bool
    """Whether it has a handler."""
    masked: bool
    """Whether it was masked by :meth:`Control.mask`."""
    cpu: int
    """Effective CPU, -1: none."""
    vector: int
    """CPU vector; while there is no handler it is the placeholder's."""
    destination: int
    """Destination that the CPU's domain chose: an APIC id, physical or logical."""
    cached_address: int
    cached_data: int
    composed_address: int
    composed_data: int
    last_sequence: int
    """Sequence number of the event that the handler saw last."""
    spurious: int
    """How often the handler ran and found no event."""
    counts: tuple[int, ...]
    """Runs of the handler by CPU."""

    @property
    def name(self) -> InterruptName:
        """Which interrupt of the function it is."""
        return InterruptName(self.store, self.index)

    @property
    def cached(self) -> Message:
        """The message that the kernel last wrote to the store."""
        return Message(self.cached_address, self.cached_data)

    @property
    def composed(self) -> Message:
        """The message that the hierarchy composes now."""
        return Message(self.composed_address, self.composed_data)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it stands in the store, read by the guest: in a guest this may trap."""

    store: Annotated[Store, ByName()]
    index: int
    address: int
    data: int
    masked: bool
    pending: bool

    @property
    def message(self) -> Message:
        """The pair."""
        return Message(self.address, self.data)


@dataclass(frozen=True, slots=True)
class Allocation:
    """What an allocation gave."""

    index: int
    """First index."""
    done: int
    """How many were granted."""
    nanoseconds: int
    """How long the module took, by the guest's clock."""
    interrupts: tuple[Interrupt, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """How a work descriptor ended."""

    status: int
    """One of :class:`harness.spec.ims_function.CompletionStatus`, or what else the device wrote."""
    completion: str
    """The same in words."""
    sequence: int
    """Sequence number of the event, 0: none was raised."""
    device_status: int

    @property
    def device(self) -> Status:
        """STATUS register after it."""
        return Status.unpack(self.device_status)


@dataclass(frozen=True, slots=True)
class MoveCompletion(Completion):
    """How a work descriptor ended that was submitted right after a move."""

    cpu: int
    """The effective CPU when it was submitted: the old one if the kernel has put the move off."""


@dataclass(frozen=True, slots=True)
class Function:
    """The PCI function that the module has bound."""

    slot: str
    """PCI name, e.g. ``0000:01:00.0``."""
    msi_parent: str
    """Domain that IMS and the per-device domains stand on."""
    remapping: bool
    """Whether that is a remapping domain."""
    ims_domain: str
    """Whose IRQ domain IMS stands on: ``kernel`` (the PCI core's), ``module`` (our own) or
    ``none``: then there is no IMS."""
    dynamic_msix: bool
    """Whether MSI-X vectors can be added to live ones."""
    ims_mapped: bool
    msi_max: int
    msix_max: int
    ims_max: int
    msi: int
    """Allocated MSI messages; ``msix`` and ``ims`` likewise."""
    msix: int
    ims: int
    placeholders: int
    """Remapping entries that :meth:`Control.hold` has taken."""
    status: int
    """Register STATUS; ``refused`` and ``unanswered`` likewise."""
    refused: int
    unanswered: int


@dataclass(frozen=True, slots=True)
class Level:
    """One level of an interrupt's domain hierarchy."""

    domain: str
    """Name of the domain, "" for none."""
    chip: str
    hwirq: int


@dataclass(frozen=True, slots=True)
class MachineInterrupt:
    """One Linux interrupt of the machine, of whatever driver."""

    virq: int
    activated: bool
    started: bool
    """Whether it has a handler and was started."""
    masked: bool
    level: bool
    """Level triggered."""
    cpu: int
    depth: int
    """Number of levels."""
    levels: tuple[Level, ...]
    """From the chip next to the device down to the CPU's."""
    vector: int | None = None
    """None when the hierarchy does not end in the vector domain; likewise ``destination``."""
    destination: int | None = None
    address: int | None = None
    """None when no chip composes a message; likewise ``data``."""
    data: int | None = None

    @property
    def message(self) -> Message | None:
        """What the hierarchy composes."""
        if self.address is None or self.data is None:
            return None
        return Message(self.address, self.data)

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains."""
        return tuple(level.domain for level in self.levels)


@dataclass(frozen=True, slots=True)
class Held:
    """Placeholders in the remapping table."""

    done: int
    """Entries taken or given back."""
    total: int
    """Entries held now."""
    refusal: int = 0
    """Errno that ended a hold without a count."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """An online CPU."""

    cpu: int
    apic_id: int


@dataclass(frozen=True, slots=True)
class Cpus:
    """The guest's CPUs."""

    possible: str
    """In the kernel's notation: ``0-3``."""
    online: str
    cpus: tuple[Cpu, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """A sign of life."""

    release: str
    """Kernel release."""
    module: bool
    """Whether the module is loaded."""
    random: str
    """Random bytes of the kernel's in hex: no two guests ever say the same."""


def build(cls: type[T], reply: JsonObject) -> T:
    """Return a dataclass from the members of a JSON object that it names.

    :raises ProtocolError: one is missing, or is of another type.
    """
    return _convert(cls, reply, cls.__name__)


def build_all(cls: type[T], reply: JsonObject, name: str) -> tuple[T, ...]:
    """Return a dataclass from each JSON object of the list ``name``.

    :raises ProtocolError: as :func:`build`, and when there is no such list.
    """
    return _convert(tuple[cls, ...], reply.get(name), name)  # type: ignore[valid-type]


def _convert(cls: type[T], data: object, name: str) -> T:
    try:
        return convert(cls, data)
    except Misfit as error:
        raise ProtocolError(f"imsctl: {name}: {error}", evidence=f"{data!r:.2000}") from error
