"""A driver of a real guest and its host, which do anything in any order over the vIRTE call.

As the machine of the model (tests/unit/test_hypervisor_properties.py), one level up: what is done
are operations of the guest's driver. Its own idea of what the driver holds is held against the
guest, the stores and the hypervisor's books after each step.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from harness.devices.ledger import Fate
from harness.guest.control import ControlError
from harness.host.deadline import Deadline, wait_until
from harness.hypervisor.calls import Answered
from harness.hypervisor.host import Blocked
from harness.hypervisor.policy import DeliveryPath, Policy, StormLimit
from harness.spec.hypercall import CallStatus, Operation
from harness.spec.interrupt import InterruptName, Store
from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import Virte, bind, unbind

HANDLES: Final = 12
"""So few that they run out and come back."""
ENTRIES: Final = 6
"""Of IMS that are used."""
AUDIT_STEPS: Final = 5
"""The audit looks at every store and table, and takes as long as several steps."""
SECONDS: Final = 20.0
"""Bound of any one answer."""

ERRNOS: Final = {
    CallStatus.BUSY: errno.EAGAIN,
    CallStatus.NO_HANDLES: errno.ENOSPC,
    CallStatus.DENIED: errno.EPERM,
    CallStatus.UNSUPPORTED: errno.EOPNOTSUPP,
    CallStatus.FAILED: errno.EIO,
}
"""What a refusal has to be at the driver: docs/virte.md, "Statuses"."""

FIRST_MESSAGE: Final = InterruptName(Store.MSI, 0)
"""Requested before the other messages of MSI and released after them: with it Linux writes, and
clears, the pair of all (kernel/irq/msi.c, msi_domain_deactivate(); pci_msi_domain_write_msg())."""

number = st.integers(0, 31)
"""Chooses one of what there is, however much that is."""


@dataclass
class Bench:
    """One guest with its function and the call: what a machine works on."""

    vm: Vm
    virte: Virte
    policy: Policy
    device: PluggedFunction


class Outcome:
    """What came of one operation of the driver."""

    def __init__(self) -> None:
        self.errno = 0
        self.calls: list[Answered] = []

    @property
    def refusals(self) -> set[int]:
        """The errno of each refusal; BUSY may have been followed by a call that was granted."""
        statuses = {call.answer.status for call in self.calls} - {CallStatus.OK}
        return {ERRNOS[CallStatus(status)] for status in statuses}


class DrivenGuest(RuleBasedStateMachine):
    """A driver that allocates, requests, moves, frees and is unbound; a host that refuses."""

    bench: ClassVar[Bench]

    def __init__(self) -> None:
        super().__init__()
        bench = self.bench
        self.vm, self.virte, self.policy = bench.vm, bench.virte, bench.policy
        self.device = bench.device
        self.partition = bench.virte.model.partition
        self.held: dict[InterruptName, bool] = {}
        """What is allocated, and whether it is requested."""
        self.steps = 0
        self.late: set[int] = set()
        """Handles whose last move was refused: the guest's vectors are ahead of the route."""

    @initialize()
    def start(self) -> None:
        self.relent()
        self.device.control.reset()
        self.virte.model.partition.host.blocked.clear()
        self.quiet_since = self.device.model.ledger.mark()
        self.device.set_up(Store.IMS, 2)
        self.held = {InterruptName(Store.IMS, index): True for index in range(2)}

    # What the driver does

    @rule(store=st.sampled_from(STORES), at=st.integers(0, ENTRIES - 1), log2=st.integers(0, 2))
    def alloc(self, store: Store, at: int, log2: int) -> None:
        stores = {name.store for name in self.held}
        index, count = (at, min(1 << log2, ENTRIES - at)) if store is Store.IMS else (0, 1 << log2)
        wanted = [InterruptName(store, index + each) for each in range(count)]
        if store is not Store.IMS and stores & {Store.MSI, Store.MSIX}:
            return  # one of them at a time, and as a whole
        if any(name in self.held for name in wanted):
            return
        with self.operation() as outcome:
            self.device.control.alloc(store, count, index=index)
        if not outcome.errno:
            assert outcome.refusals <= {errno.EAGAIN}
            self.held |= dict.fromkeys(wanted, False)

    @precondition(lambda self: False in self.held.values())
    @rule(which=number)
    def request(self, which: int) -> None:
        name = self.choose(which, requested=False)
        if name.store is Store.MSI and self.held[FIRST_MESSAGE] is False:
            name = FIRST_MESSAGE
        with self.operation() as outcome:
            self.device.control.request(name.store, name.index)
        if not outcome.errno:
            self.held[name] = True
            self.deliver(name)

    @precondition(lambda self: True in self.held.values())
    @rule(which=number, cpu=st.integers(0, 1))
    def move(self, which: int, cpu: int) -> None:
        name = self.choose(which, requested=True)
        self.deliver(name)  # the move before is over
        before, pair = self.cpu(name), self.device.message(name.store, name.index)
        with self.operation() as outcome:
            self.device.control.move(name.store, cpu, name.index)
        if outcome.errno:
            assert self.cpu(name) == before
        else:
            assert outcome.refusals <= {errno.EAGAIN}
        self.deliver(name)  # carries out what the kernel has put off
        self.deliver(name)
        assert self.device.message(name.store, name.index) == pair

    @precondition(lambda self: True in self.held.values())
    @rule(which=number)
    def release(self, which: int) -> None:
        self.let_go(self.choose(which, requested=True))

    @precondition(lambda self: False in self.held.values())
    @rule(which=number)
    def free(self, which: int) -> None:
        name = self.choose(which, requested=False)
        gone = [name]
        if name.store is not Store.IMS:
            gone = self.of_store(name.store)
            self.release_all(gone)
        self.device.control.free(name.store, min(each.index for each in gone), len(gone))
        for each in gone:
            del self.held[each]

    @rule(all_of_it=st.booleans())
    def leave(self, all_of_it: bool) -> None:
        """Unbind the driver and bind it again; or the call's as well, which negotiates anew."""
        self.relent()
        self.device.unbind()
        assert not any(entry.ready for entry in self.partition.entries())
        if all_of_it:
            unbind(self.vm, self.virte.slot)
            assert not self.partition.negotiated
            bind(self.vm, self.virte.slot, "virte")
            assert self.partition.negotiated
        self.device.bind()
        self.held.clear()
        self.late.clear()

    @precondition(lambda self: True in self.held.values())
    @rule(which=number)
    def storm(self, which: int) -> None:
        """Let one storm: the host quenches it, and the guest is told, and revives it."""
        name = self.choose(which, requested=True)
        self.relent()
        (entry,) = (entry for entry in self.partition.entries() if self.is_of(entry.name, name))
        entry.window_count = 0
        self.policy.storm = StormLimit(1, SECONDS)
        self.deliver(name)
        blocked = self.partition.host.blocked
        ledger = self.device.model.ledger
        event = self.device.model.raise_interrupt(name.store, name.index)
        stopped = Deadline(SECONDS, "the message that is one too many")
        wait_until(lambda: blocked[Blocked.QUENCHED] > 0, stopped)
        if event.fate is Fate.SENT:  # by QEMU, which does not tell what became of it
            ledger.settle(event, Fate.BLOCKED, "its handle is quenched")
        self.policy.storm = None
        blocked.clear()
        self.quiet_since = ledger.mark()
        # Any answer brings the notice. A move may make no call: the kernel puts it off to the next
        # interrupt while the move before is not over, and none comes.
        given_back = self.let_go(name)
        wait_until(lambda: entry.quenched_at is None, Deadline(SECONDS, "the revival"))
        for each in given_back:
            self.device.control.request(each.store, each.index)
            self.held[each] = True
        self.deliver(name)

    # What the host does

    @rule(
        operation=st.sampled_from([Operation.MAP, Operation.RETARGET]),
        status=st.sampled_from(list(ERRNOS)),
        after=st.sampled_from([0, 0, 1, 3]),
        times=st.sampled_from([1, 2, 40]),
    )
    def fail(self, operation: Operation, status: CallStatus, after: int, times: int) -> None:
        self.policy.stop_failing()
        self.policy.fail(operation, status, after=after, times=times)

    @rule(
        owned=st.booleans(),
        quota=st.sampled_from([4, HANDLES]),
        largest=st.sampled_from([1, 32]),
        crashes=st.integers(0, 1),
        start=st.sampled_from([0.0, 0.0005]),
        path=st.sampled_from(list(DeliveryPath)),
    )
    def change_policy(
        self, owned: bool, quota: int, largest: int, crashes: int, start: float, path: DeliveryPath
    ) -> None:
        """Change what is granted; without ``owned`` the function is revoked: it maps no more."""
        policy = self.policy
        policy.owns = lambda segment, requester: owned
        policy.quota, policy.largest_block = quota, largest
        policy.crashes, policy.start_seconds, policy.delivery = crashes, start, path

    @rule()
    def relent(self) -> None:
        """Grant everything."""
        self.policy.stop_failing()
        self.change_policy(True, HANDLES, 32, 0, 0.0, DeliveryPath.POSTED)

    # What always holds

    @invariant()
    def sound(self) -> None:
        self.guest_and_host_have_what_the_driver_has()
        self.steps += 1
        if self.steps % AUDIT_STEPS == 0 and not self.late:  # its vector is not in force
            self.device.check_audit()
        self.device.model.ledger.assert_quiet(self.quiet_since)
        assert self.partition.host.blocked.total() == 0

    def guest_and_host_have_what_the_driver_has(self) -> None:
        host = self.partition.host
        entries = self.partition.entries()
        assert host.handles.free + len(entries) == HANDLES
        assert len({entry.handle & 0xFFFF for entry in entries}) == len(entries)
        guest = {item.name: item.requested for item in self.device.interrupts()}
        assert guest == self.held
        routes = {
            InterruptName(entry.name.store, entry.name.index): entry.route
            for entry in entries
            if entry.ready
        }
        assert set(routes) <= set(self.held)
        for name, requested in self.held.items():
            assert (routes.get(name) is not None) == requested, f"{name}: {routes.get(name)}"

    # Inside

    def of_store(self, store: Store) -> list[InterruptName]:
        """Return what is held in a store."""
        return [name for name in self.held if name.store is store]

    def let_go(self, name: InterruptName) -> list[InterruptName]:
        """Release one that is requested, with the first message all of MSI's; return them."""
        names = [name] if name != FIRST_MESSAGE else self.of_store(Store.MSI)
        requested = [each for each in names if self.held[each]]
        self.release_all(requested)
        return requested

    def release_all(self, names: list[InterruptName]) -> None:
        """Release those that are requested, the last first."""
        for name in reversed(names):
            if self.held[name]:
                self.device.control.release(name.store, name.index)
                self.held[name] = False

    def choose(self, which: int, *, requested: bool) -> InterruptName:
        """Return one of those that are in a state."""
        names = [name for name, state in self.held.items() if state is requested]
        return names[which % len(names)]

    def cpu(self, name: InterruptName) -> int:
        """Return the CPU that the guest has an interrupt on."""
        return self.device.control.interrupt(name.store, name.index).cpu

    def deliver(self, name: InterruptName) -> None:
        """Raise an interrupt, which arrives where the guest has it before or after."""
        with self.operation():
            before = self.cpu(name)
            deadline = Deadline(SECONDS, f"the answer to {name}")
            event = self.device.model.raise_and_wait(name.store, name.index, deadline)
            assert event.cpu in {before, self.cpu(name)}

    @contextmanager
    def operation(self) -> Iterator[Outcome]:
        """Hold an operation that may be refused: if it is, its errno is that of a refusal."""
        outcome = Outcome()
        made = len(self.virte.model.calls)
        try:
            yield outcome
        except ControlError as error:
            outcome.errno = error.errno
        outcome.calls = [
            call
            for call in self.virte.model.calls[made:]
            if call.request.operation in (Operation.MAP, Operation.RETARGET)
        ]
        assert not outcome.errno or outcome.errno in outcome.refusals
        for call in outcome.calls:
            for request, answer in call.entries:
                if call.request.operation == Operation.RETARGET:
                    refused = answer.status != CallStatus.OK
                    (self.late.add if refused else self.late.discard)(request.handle)
        self.late &= {entry.handle for entry in self.partition.entries() if entry.route}

    @staticmethod
    def is_of(name: InterruptName, other: InterruptName) -> bool:
        """Whether two names are of one interrupt, whoever's function they name."""
        return (name.store, name.index) == (other.store, other.index)
