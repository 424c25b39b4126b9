"""The state machine of the hypervisor model: two guests of one host, who call, send and fail.

The machine keeps its own idea of what the guests were told and holds the model against it. It looks
at answers and deliveries only, as a guest does; the host's books are read for the leak checks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from harness.hypervisor.entry import Route, Sender
from harness.hypervisor.host import Delivered, Fault, Host
from harness.hypervisor.policy import DeliveryPath, Policy, StormLimit
from harness.spec.hypercall import (
    CallStatus,
    EntryAnswer,
    EntryFlag,
    EntryRequest,
    HandleState,
    Operation,
)
from harness.spec.interrupt import Store
from tests.unit.hypercall_guest import Clock, Guest

HANDLES = 8
"""So few that indices are used again and again."""
REQUESTERS = st.sampled_from([0x0100, 0x0108, 0x0200])
FAILURES = st.sampled_from(
    [
        CallStatus.BUSY,
        CallStatus.NO_HANDLES,
        CallStatus.DENIED,
        CallStatus.FAILED,
    ]
)
ROUTES = st.tuples(st.integers(0, 7), st.integers(16, 255))
Where = tuple[int, int] | None


@dataclass
class Held:
    """What a guest knows of one handle: its pair, and where it asked it to go."""

    guest: int
    requester: int
    pasid: int | None
    pair: EntryAnswer
    count: int
    where: list[Where] = field(default_factory=list)
    """By message of the block; None is parked."""


class Calls(RuleBasedStateMachine):
    """Two guests of one host, which map, move, free, fail and send."""

    held = Bundle("held")
    dead = Bundle("dead")

    @initialize()
    def start(self) -> None:
        self.clock = Clock()
        self.host = Host(HANDLES, self.clock)
        self.guests = [Guest(self.host, Policy(quota=HANDLES)) for _ in range(2)]
        self.negotiate()

    def negotiate(self) -> None:
        """Begin with guests that are granted everything, and hold nothing."""
        self.live: dict[int, Held] = {}
        for guest in self.guests:
            assert guest.negotiate().status == CallStatus.OK

    def known(self, item: Held) -> bool:
        return self.live.get(item.pair.handle) is item

    # Calls

    @rule(
        target=held,
        guest=st.integers(0, 1),
        requester=REQUESTERS,
        index=st.integers(0, 5),
        pasid=st.none() | st.integers(0, 2),
        route=st.none() | ROUTES,
    )
    def map_ims(
        self, guest: int, requester: int, index: int, pasid: int | None, route: Where
    ) -> object:
        flags = EntryFlag.PASID if pasid is not None else EntryFlag(0)
        entry = self.entry(Store.IMS, requester, 1, route, flags, index=index, pasid=pasid or 0)
        return self.map(guest, entry, 1, [route])

    @rule(
        target=held,
        guest=st.integers(0, 1),
        requester=REQUESTERS,
        log2=st.integers(0, 3),
        enough=st.booleans(),
        route=ROUTES,
    )
    def map_msi(
        self, guest: int, requester: int, log2: int, enough: bool, route: tuple[int, int]
    ) -> object:
        count = 1 << log2
        least = 1 if enough else 0
        entry = self.entry(Store.MSI, requester, count, route, EntryFlag(0), least=least)
        return self.map(guest, entry, least or count, [route])

    @staticmethod
    def entry(
        store: Store, requester: int, count: int, route: Where, flags: EntryFlag, **more: int
    ) -> EntryRequest:
        destination, vector = route or (0, 0)
        if route is None:
            flags |= EntryFlag.PARKED
        return EntryRequest(
            store=store,
            requester=requester,
            count=count,
            flags=flags,
            destination=destination,
            vector=vector,
            **more,
        )

    def map(self, guest: int, entry: EntryRequest, least: int, first: list[Where]) -> object:
        answer, (pair,) = self.guests[guest].call(Operation.MAP, entry)
        assert answer.status == pair.status
        if answer.status != CallStatus.OK:
            assert (pair.handle, pair.address, pair.data) == (0, 0, 0)
            return multiple()
        assert least <= pair.granted <= entry.count
        if again := self.live.get(pair.handle):
            # Mapped before: the same guest, the same pair, and the new route.
            assert (again.guest, again.pair.address, again.pair.data) == (
                guest,
                pair.address,
                pair.data,
            )
            again.where[0] = first[0]
            return multiple()
        pasid = entry.pasid if entry.flags & EntryFlag.PASID else None
        where = first + [None] * (pair.granted - 1)
        item = Held(guest, entry.requester, pasid, pair, pair.granted, where)
        self.live[pair.handle] = item
        return item

    @rule(item=held, number=st.integers(0, 31), route=st.none() | ROUTES)
    def retarget(self, item: Held, number: int, route: Where) -> None:
        number %= item.count
        entry = EntryRequest(
            handle=item.pair.handle + number,
            flags=EntryFlag.PARKED if route is None else 0,
            destination=route[0] if route else 0,
            vector=route[1] if route else 0,
        )
        answer, (moved,) = self.guests[item.guest].call(Operation.RETARGET, entry)
        if not self.known(item):
            assert answer.status == CallStatus.NO_SUCH_HANDLE
        elif answer.status == CallStatus.OK:
            assert moved.address == item.pair.address
            assert moved.data == item.pair.data + number
            item.where[number] = route

    @rule(item=held, guest=st.integers(0, 1), operation=st.sampled_from(list(Operation)[3:]))
    def meddle(self, item: Held, guest: int, operation: Operation) -> None:
        """Use the other guest's handle."""
        if guest == item.guest or not self.known(item):
            return
        fields = {"vector": 0x99} if operation is Operation.RETARGET else {}
        if operation is Operation.UNMAP:
            fields = {"count": item.count}
        answer, _ = self.guests[guest].call(
            operation, EntryRequest(handle=item.pair.handle, **fields)
        )
        assert answer.status == CallStatus.NO_SUCH_HANDLE

    @rule(target=dead, item=consumes(held))
    def unmap(self, item: Held) -> Held:
        known = self.known(item)
        entry = EntryRequest(handle=item.pair.handle, count=item.count)
        answer, _ = self.guests[item.guest].call(Operation.UNMAP, entry)
        assert answer.status == (CallStatus.OK if known else CallStatus.NO_SUCH_HANDLE)
        if known:
            del self.live[item.pair.handle]
        return item

    @rule(guest=st.integers(0, 1), again=st.booleans())
    def reset(self, guest: int, again: bool) -> None:
        """Release, or negotiate anew; or be reset by somebody and negotiate then."""
        if again:
            self.guests[guest].partition.reset()
        else:
            assert self.guests[guest].call(Operation.RELEASE)[0].status == CallStatus.OK
        self.guests[guest].policy.stop_failing()
        self.live = {handle: item for handle, item in self.live.items() if item.guest != guest}
        assert self.guests[guest].partition.live == 0
        assert self.guests[guest].negotiate().status == CallStatus.OK

    # The host

    @rule(
        guest=st.integers(0, 1),
        operation=st.sampled_from([Operation.MAP, Operation.RETARGET]),
        status=FAILURES,
        after=st.integers(0, 2),
        times=st.integers(1, 3),
    )
    def fail(
        self, guest: int, operation: Operation, status: CallStatus, after: int, times: int
    ) -> None:
        self.guests[guest].policy.fail(operation, status, after=after, times=times)

    @rule(
        guest=st.integers(0, 1),
        crashes=st.integers(0, 1),
        start=st.sampled_from([0.0, 0.5]),
        path=st.sampled_from(list(DeliveryPath)),
        quota=st.sampled_from([3, HANDLES]),
        largest=st.sampled_from([1, 4, 32]),
        storm=st.sampled_from([None, StormLimit(2, 0.25)]),
    )
    def change_policy(
        self,
        guest: int,
        crashes: int,
        start: float,
        path: DeliveryPath,
        quota: int,
        largest: int,
        storm: StormLimit | None,
    ) -> None:
        policy = self.guests[guest].policy
        policy.crashes, policy.start_seconds, policy.delivery = crashes, start, path
        policy.quota, policy.largest_block, policy.storm = quota, largest, storm

    @rule(seconds=st.sampled_from([0.125, 0.5, 4.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    # Messages

    @rule(item=held, number=st.integers(0, 31))
    def send(self, item: Held, number: int) -> None:
        """A live handle's message goes where the guest asked, or is blocked for a known reason."""
        number %= item.count
        guest = self.guests[item.guest]
        message = EntryAnswer(
            CallStatus.OK, address=item.pair.address, data=item.pair.data + number
        )
        if not self.known(item):
            assert guest.arrival(message) is None
            return
        outcome = guest.send(message, pasid=item.pasid)
        query = EntryRequest(handle=item.pair.handle + number)
        _, (state,) = guest.call(Operation.QUERY, query)
        if isinstance(outcome, Delivered):
            assert isinstance(outcome.route, Route)
            assert (outcome.route.destination, outcome.route.vector) == item.where[number]
        else:
            quenched = bool(state.state & HandleState.QUENCHED)
            assert quenched or item.where[number] is None

    @rule(item=held, requester=st.none() | REQUESTERS)
    def send_as_another(self, item: Held, requester: int | None) -> None:
        """Send it as the other guest, or from another function of the same one."""
        place, data = self.guests[item.guest].place(item.pair), item.pair.data
        if requester is None:
            outcome = self.guests[1 - item.guest].partition.signal(place, data)
        elif self.known(item) and requester != item.requester:
            guest = self.guests[item.guest]
            outcome = guest.partition.signal(place, data, Sender(requester, item.pasid))
        else:
            return
        assert isinstance(outcome, Fault)

    @rule(item=dead)
    def send_late(self, item: Held) -> None:
        if item.pair.handle in self.live:
            return  # a thousand generations later
        blocked = self.host.blocked.total()
        assert self.guests[item.guest].arrival(item.pair) is None
        assert self.host.blocked.total() == blocked + 1

    @rule(place=st.integers(0, 0x3000), data=st.integers(0, HANDLES), guest=st.integers(0, 1))
    def send_anything(self, place: int, data: int, guest: int) -> None:
        """Whatever is sent, it reaches a CPU and vector that this guest asked for, or nothing."""
        outcome = self.guests[guest].partition.signal(place, data)
        if message := getattr(outcome, "message", None):
            decoded = message.decode()
            asked = {
                where for item in self.live.values() if item.guest == guest for where in item.where
            }
            assert (decoded.destination, decoded.vector) in asked

    # What always holds

    @invariant()
    def no_handle_has_two_owners(self) -> None:
        if not hasattr(self, "host"):
            return
        entries = [entry for guest in self.guests for entry in guest.partition.entries()]
        handles = [entry.handle for entry in entries]
        assert len(handles) == len(set(handles))
        assert set(handles) == set(self.host.entries)
        indices = [handle & 0xFFFF for handle in handles]
        assert len(indices) == len(set(indices))

    @invariant()
    def nothing_is_lost_from_the_table(self) -> None:
        if hasattr(self, "host"):
            held = sum(guest.partition.live for guest in self.guests)
            assert self.host.handles.free + held == HANDLES

    @invariant()
    def what_was_handed_out_is_ready(self) -> None:
        if hasattr(self, "host"):
            for handle, item in self.live.items():
                for number in range(item.count):
                    assert self.host.entries[handle + number].ready
