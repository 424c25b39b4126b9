"""The main job: drive the three stores of one function, and check each step from both sides.

First by the guest's own remapping, then by the vIRTE call, when the hypervisor grants it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from harness.devices.virte_function.function import VirteFunction
from harness.errors import CheckFailed
from harness.host.deadline import Deadline
from harness.hypervisor.entry import HostEntry, Route
from harness.hypervisor.host import Host
from harness.spec.interrupt import Store
from harness.spec.msi import Message, RemappableMessage
from harness.spec.pci import RequesterId
from harness.spec.vtd import RemappedEntry
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.vm import Vm

COUNT: Final = 4
"""Interrupts that are allocated in each store."""

ANSWER_SECONDS: Final = 5.0


PORTS: Final = 2
"""Root ports that a machine needs: for the function, and for that of the call."""

HANDLES: Final = 64


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the guest, and what it cost."""

    name: str
    traps: int
    """Trapped accesses to the store."""
    calls: int
    """vIRTE calls, each of which is one trapped access."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where an interrupt went: what routes its message, and the CPU that answered."""

    route: RemappedEntry | Route
    destination: int
    """APIC id, or logical destination if the route says so."""
    cpu: int

    def __str__(self) -> str:
        if isinstance(self.route, Route):
            return str(self.route)
        kind = "logical destination" if self.route.destination_mode else "APIC id"
        sender = RequesterId(self.route.source_id)
        return f"vector {self.route.vector:#x} of {kind} {self.destination:#x}, from {sender} only"


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What happened in one store. ``index`` is the interrupt that was looked at closely."""

    store: Store
    by_call: bool
    """The messages are the hypervisor's; else the guest's own, and remapped."""
    virqs: tuple[int, ...]
    index: int
    message: Message
    name: int
    """What the message names: an IRTE by its index, or a handle."""
    before: Arrival
    after: Arrival | None
    """After a move; None: the guest has one CPU."""
    steps: tuple[Step, ...]


def drive_stores(plugged: PluggedFunction) -> Iterator[StoreReport]:
    """Allocate, raise, move, raise again and free in each store; yield a report as each is done.

    :raises CheckFailed: the guest, the device and what routes the messages do not agree, or an
        interrupt was lost, doubled or misdirected.
    """
    for store in STORES:
        yield _drive_store(plugged, store, None)


def drive_stores_by_call(vm: Vm, plugged: PluggedFunction) -> Iterator[StoreReport]:
    """Plug in the function of the call, bind the driver again, and drive each store over it.

    :raises CheckFailed: as :func:`drive_stores`.
    :raises DeadlineExpired: the guest does not negotiate.
    """
    plugged.unbind()
    with vm.granted_call(VirteFunction(Host(HANDLES, time.monotonic))) as served:
        plugged.bind()
        for store in STORES:
            yield _drive_store(plugged, store, served.model)


def _drive_store(plugged: PluggedFunction, store: Store, call: VirteFunction | None) -> StoreReport:
    control, model = plugged.control, plugged.model
    routes = _Handles(plugged, call) if call else _Irtes(plugged)
    steps: list[Step] = []
    index = COUNT - 1
    baseline = routes.held()
    quiet_since = model.ledger.mark()

    @contextlib.contextmanager
    def step(name: str) -> Iterator[None]:
        calls = len(call.calls) if call else 0
        with plugged.trapped() as traps:
            yield
        made = len(call.calls) - calls if call else 0
        steps.append(Step(name, traps[store], made))

    with step("allocate"):
        allocation = control.alloc(store, COUNT)
    _expect(allocation.done == COUNT, f"{COUNT} asked for, {allocation.done} granted")
    with step("request"):
        control.request(store, count=COUNT)
    plugged.check_audit()

    message = plugged.message(store, index)
    name = routes.name(message)
    before = _raise(plugged, store, index, routes)

    after = None
    if others := [cpu.cpu for cpu in control.guest.cpus().cpus if cpu.cpu != before.cpu]:
        with step("move"):
            plugged.move(store, others[0], index)
        stored = plugged.message(store, index)
        _expect(stored == message, f"the move changed the store from {message} to {stored}")
        after = _raise(plugged, store, index, routes)
        _expect(after.cpu == others[0], f"moved to CPU {others[0]}, answered by CPU {after.cpu}")
        _expect(after.route != before.route, "the move left the route as it was")
    for other in range(COUNT):
        model.raise_and_wait(store, other, Deadline(ANSWER_SECONDS, f"{store.name} {other}"))
    plugged.check_audit()

    with step("free"):
        control.release(store, count=COUNT)
        control.free(store, count=COUNT)
    left = routes.held() - baseline
    _expect(not left, f"{routes.WHAT} left after the free: {sorted(left)}")
    plugged.check_audit()
    model.ledger.assert_quiet(quiet_since)
    return StoreReport(
        store=store,
        by_call=call is not None,
        virqs=tuple(item.virq for item in allocation.interrupts),
        index=index,
        message=message,
        name=name,
        before=before,
        after=after,
        steps=tuple(steps),
    )


class _Irtes:
    """The routes of the guest's own remapping."""

    WHAT: Final = "IRTEs"

    def __init__(self, plugged: PluggedFunction):
        self._plugged = plugged

    def held(self) -> set[int]:
        """Return what the function holds."""
        return set(self._plugged.irtes())

    def name(self, message: Message) -> int:
        """Return what a message names."""
        request = message.decode()
        if not isinstance(request, RemappableMessage):
            raise CheckFailed(f"{message} is not in remappable format")
        return request.index

    def route(self, message: Message) -> tuple[RemappedEntry, int]:
        """Return where a message goes, and the destination."""
        entry = self._plugged.irte(message)
        if not isinstance(entry, RemappedEntry):
            raise CheckFailed(f"{message} names an IRTE in posted format")
        return entry, self._plugged.destination(entry)


class _Handles:
    """The routes of the vIRTE call."""

    WHAT: Final = "handles"

    def __init__(self, plugged: PluggedFunction, call: VirteFunction):
        self._requester = plugged.requester_id
        self._partition = call.partition

    def _entries(self) -> dict[int, HostEntry]:
        found = self._partition.entries()
        return {e.handle: e for e in found if e.source.origin.requester == self._requester}

    def held(self) -> set[int]:
        """Return what the function holds."""
        return set(self._entries())

    def name(self, message: Message) -> int:
        """Return what a message names."""
        for handle, entry in self._entries().items():
            if self._partition.message(entry) == message:
                return handle
        raise CheckFailed(f"{message} is the pair of no handle of {self._requester}")

    def route(self, message: Message) -> tuple[Route, int]:
        """Return where a message goes, and the destination."""
        entry = self._entries()[self.name(message)]
        if not isinstance(entry.route, Route):
            raise CheckFailed(f"{entry}: the guest has asked for no route")
        return entry.route, entry.route.destination


def _raise(
    plugged: PluggedFunction, store: Store, index: int, routes: _Irtes | _Handles
) -> Arrival:
    deadline = Deadline(ANSWER_SECONDS, f"the answer to {store.name} {index}")
    event = plugged.model.raise_and_wait(store, index, deadline)
    expected = plugged.control.interrupt(store, index).cpu
    _expect(
        event.cpu == expected,
        f"{store.name} {index} is on CPU {expected}, and CPU {event.cpu} answered",
    )
    assert event.cpu is not None
    route, destination = routes.route(plugged.message(store, index))
    return Arrival(route, destination, event.cpu)


def _expect(held: bool, otherwise: str) -> None:
    if not held:
        raise CheckFailed(otherwise)
