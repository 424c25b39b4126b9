"""One guest's side of the hypervisor: what it has negotiated, the handles it holds, its calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from harness.hypervisor.entry import (
    BOTH_HALVES,
    UNTOLD,
    Block,
    Half,
    HostEntry,
    Refused,
    Route,
    Sender,
    Source,
    doorbell_message,
)
from harness.hypervisor.host import Delivered, Fault, Host
from harness.hypervisor.policy import Policy
from harness.hypervisor.rules import check_map, check_retarget, route_of, source_of
from harness.spec.hypercall import (
    DOORBELL_PAGES,
    VERSION_1_0,
    CallStatus,
    EntryAnswer,
    EntryRequest,
    Feature,
    HandleState,
    Operation,
    Status,
)
from harness.spec.msi import Message


class Partition:
    """One guest of a host. The calls take operands as they came: any value has an answer.

    :param doorbells: gives the address of the doorbell BAR as the guest has placed it.
    :param is_told: whether a message of this requester id comes with it. Another's would pass for
        that of any function that is not told either, so there is no handle for it.
    """

    def __init__(
        self,
        host: Host,
        doorbells: Callable[[], int],
        policy: Policy | None = None,
        *,
        is_told: Callable[[int], bool] = lambda requester: True,
    ):
        self.host = host
        self.policy = policy or Policy()
        self.negotiated = False
        self.features = Feature(0)
        """What was granted."""
        self.untold: Counter[int] = Counter()
        """Requester ids that were refused a handle because their messages come without it."""
        self._is_told = is_told
        self._doorbells = doorbells
        self._pages: dict[tuple[int, int], int] = {}
        self._blocks: dict[Source, Block] = {}
        self._starting: dict[Source, Block] = {}
        """Those that the guest has not seen yet: it was told to wait for them."""
        self._live = 0
        self._on_the_way: set[Delivered] = set()
        self._landing: set[Delivered] = set()
        """What of it goes where the guest does not want it any more."""

    # What there is to see.

    @property
    def live(self) -> int:
        """How many handles the guest holds, those that are still starting included."""
        return self._live

    def entries(self) -> list[HostEntry]:
        """Return the entries of every handle that the guest holds."""
        with self.host.lock:
            return [entry for block in self._blocks.values() for entry in block.entries]

    @property
    def status(self) -> Status:
        """The STATUS register."""
        with self.host.lock:
            quenched = any(entry.quenched_at is not None for entry in self.entries())
            landing = bool(self._landing)
            return Status(negotiated=self.negotiated, quenched=quenched, landing=landing)

    def message(self, entry: HostEntry) -> Message:
        """Return the pair that stands for a handle."""
        return doorbell_message(self._doorbells(), entry.page, entry.handle)

    # Messages.

    def signal(self, place: int, data: int, sender: Sender = UNTOLD) -> Delivered | Fault:
        """Take a message that was written to a doorbell page; see :meth:`Host.signal`."""
        return self.host.signal(self, self.policy, place, data, sender)

    def signal_awaited(self, place: int, data: int, sender: Sender = UNTOLD) -> Delivered | Fault:
        """Do as :meth:`signal`; one that may pass is on its way until :meth:`landed` is told."""
        with self.host.lock:
            outcome = self.signal(place, data, sender)
            if isinstance(outcome, Delivered):
                self._on_the_way.add(outcome)
            return outcome

    def landed(self, message: Delivered) -> None:
        """A message has reached its CPU, or never will."""
        with self.host.lock:
            self._on_the_way.discard(message)
            self._landing.discard(message)

    # Calls.

    def reset(self) -> None:
        """Return to the old scheme: every handle is dead at once."""
        with self.host.lock:
            self.negotiated = False
            self.features = Feature(0)
            for block in list(self._blocks.values()):
                self._take_down(block)
            self._pages.clear()

    def negotiate(self, version: int, features: int) -> tuple[int, Feature]:
        """Give back every handle and switch to the new scheme; return what was granted.

        :raises Refused: it is not granted; then the old scheme is in force.
        """
        with self.host.lock:
            self.reset()
            self._fail_on_request(Operation.NEGOTIATE)
            if not self.policy.grant:
                raise Refused(CallStatus.DENIED)
            granted = self.policy.features & features
            if version >> 16 != VERSION_1_0 >> 16 or not granted:
                raise Refused(CallStatus.UNSUPPORTED)
            self.negotiated = True
            self.features = granted
            return min(version, VERSION_1_0), granted

    def map(self, request: EntryRequest) -> EntryAnswer:
        """Compose the message of an interrupt.

        :raises Refused: it is not granted.
        """
        with self.host.lock:
            self._reap()
            check_map(request, self.features)
            route = route_of(request)
            if not self.policy.owns(request.segment, request.requester):
                raise Refused(CallStatus.DENIED)
            if not self._is_told(request.requester):
                self.untold[request.requester] += 1
                raise Refused(CallStatus.DENIED)
            self._fail_on_request(Operation.MAP)
            block = self._blocks.get(source_of(request)) or self._set_up(request)
            if block.asked != request.count:
                raise Refused(CallStatus.INVALID)
            if len(block.entries) < (request.least or request.count):
                raise Refused(CallStatus.NO_HANDLES)  # granted in part, when less was enough
            self._hand_out(block, route)
            return self._answer(block.entries[0])

    def retarget(self, request: EntryRequest) -> EntryAnswer:
        """Change where a handle's interrupt goes; parking it is never refused.

        :raises Refused: it is not granted; then the old route stays in force.
        """
        with self.host.lock:
            check_retarget(request)
            route = route_of(request)
            entry = self._held(request.handle)
            if route is not None:
                self._fail_on_request(Operation.RETARGET)
            self._set_route(entry, route)
            return self._answer(entry)

    def unmap(self, request: EntryRequest) -> EntryAnswer:
        """Take a block down: its handles are dead at once.

        :raises Refused: the guest holds no such block.
        """
        with self.host.lock:
            block = self._blocks[self._held(request.handle).source]
            if request.handle != block.handle or request.count != len(block.entries):
                raise Refused(CallStatus.INVALID)
            self._take_down(block)
            return EntryAnswer(CallStatus.OK)

    def query(self, request: EntryRequest) -> EntryAnswer:
        """Tell a handle's message, state and counters.

        :raises Refused: the guest does not hold it.
        """
        with self.host.lock:
            return self._answer(self._held(request.handle))

    def revive(self, request: EntryRequest) -> EntryAnswer:
        """End the quenching of a handle.

        :raises Refused: the guest does not hold it, or it has not cooled down.
        """
        with self.host.lock:
            entry = self._held(request.handle)
            self._fail_on_request(Operation.REVIVE)
            if entry.quenched_at is not None:
                wait = entry.quenched_at + self.policy.cool_down_seconds - self.host.clock()
                if wait > 0:
                    raise Refused(CallStatus.BUSY, wait)
                entry.quenched_at = None
                entry.window_count = 0
            return self._answer(entry)

    # Inside.

    def _fail_on_request(self, operation: Operation) -> None:
        if status := self.policy.verdict(operation):
            raise Refused(status, self.policy.busy_us / 1e6 if status is CallStatus.BUSY else 0.0)

    def _held(self, handle: int) -> HostEntry:
        # A dead handle, another guest's and one that was never given out look the same.
        entry = self.host.entries.get(handle)
        if (
            entry is None
            or entry.partition is not self
            or not self._blocks[entry.source].handed_out
        ):
            raise Refused(CallStatus.NO_SUCH_HANDLE)
        return entry

    def _answer(self, entry: HostEntry) -> EntryAnswer:
        state = HandleState.PARKED if entry.route is None else HandleState(0)
        if entry.quenched_at is not None:
            state |= HandleState.QUENCHED
        message = self.message(entry)
        return EntryAnswer(
            CallStatus.OK,
            handle=entry.handle,
            address=message.address,
            data=message.data,
            granted=len(self._blocks[entry.source].entries),
            state=state,
            delivered=entry.delivered & 0xFFFFFFFF,
            blocked=entry.blocked & 0xFFFFFFFF,
        )

    def _set_up(self, request: EntryRequest) -> Block:
        # Take handles for a new block and set the host's halves up; a failure leaves nothing.
        page = self._page(request.segment, request.requester)
        handle, count = self._take(request.count, request.least or request.count)
        source = source_of(request)
        block = Block(source, request.count)
        for number in range(count):
            entry = HostEntry(handle + number, page, source, self, number=number)
            block.entries.append(entry)
            self.host.entries[entry.handle] = entry
        self._blocks[source] = self._starting[source] = block
        self._live += count
        for entry in block.entries:
            entry.halves |= Half.ROUTE_REGISTERED
        if self.policy.crashes:
            self.policy.crashes -= 1
            self._take_down(block)
            raise Refused(CallStatus.FAILED)
        block.ready_at = self.host.clock() + self.policy.start_seconds
        return block

    def _page(self, segment: int, requester: int) -> int:
        # A page for each function that has ever mapped: its messages tell their origin by it.
        key = (segment, requester)
        if key not in self._pages:
            if len(self._pages) == DOORBELL_PAGES:
                raise Refused(CallStatus.NO_HANDLES)
            self._pages[key] = len(self._pages)
        return self._pages[key]

    def _take(self, count: int, least: int) -> tuple[int, int]:
        # The largest block that quota, policy and table allow, down to ``least``.
        room = min(self.policy.quota - self._live, self.policy.largest_block)
        while count >= least:
            if count <= room and (handle := self.host.handles.take(count)) is not None:
                return handle, count
            count //= 2
        raise Refused(CallStatus.NO_HANDLES)

    def _hand_out(self, block: Block, route: Route | None) -> None:
        wait = block.ready_at - self.host.clock()
        if wait > 0:
            raise Refused(CallStatus.BUSY, wait)
        for entry in block.entries:
            entry.halves = BOTH_HALVES
        block.handed_out = True
        self._starting.pop(block.source, None)
        # The route is the first handle's; the others of a block stay parked until RETARGET.
        self._set_route(block.entries[0], route)

    def _set_route(self, entry: HostEntry, route: Route | None) -> None:
        # What is on its way goes where the guest does not want it any more.
        if route != entry.route:
            self._landing.update(message for message in self._on_the_way if message.entry is entry)
        entry.route = route

    def _take_down(self, block: Block) -> None:
        del self._blocks[block.source]
        self._starting.pop(block.source, None)
        self._live -= len(block.entries)
        for entry in block.entries:
            self._set_route(entry, None)
            del self.host.entries[entry.handle]
        self.host.handles.give_back(block.handle, len(block.entries))

    def _reap(self) -> None:
        # Blocks that a guest was told to wait for, and did not come back for.
        now = self.host.clock()
        for block in list(self._starting.values()):
            if now > block.ready_at + self.policy.abandon_seconds:
                self._take_down(block)
