"""Many threads on one function: what must hold between an access, a raise, a reset and a rewiring.

What each thread does follows from the seed (``IMSH_SEED``), which a failure shows; how the threads
interleave does not, but they switch as often as the interpreter can.
"""

from __future__ import annotations

import logging
import mmap
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.devices.ims_function.function import ImsFunction
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.devices.ledger import Fate
from harness.spec.ims_function import (
    BAR_CONTROL,
    BAR_IMS,
    BAR_IMS_SIZE,
    BAR_MSIX,
    MSIX_PBA_OFFSET,
    Register,
)
from harness.spec.interrupt import Store
from harness.spec.pci import CapabilityId, Header
from harness.spec.vfio import IrqIndexNumber, RegionIndex
from harness.vfio_user.device import Verdict

log = logging.getLogger(__name__)

SECONDS = 1.0
"""How long each test goes on; the fault it is for shows in a fraction of that."""
ADDRESS = 0xFEE00018
ENTRIES = 4


class Client:
    """The client's side of the bus: takes every message at once, and knows what must not come."""

    def __init__(self) -> None:
        self.sent: Counter[int] = Counter()
        """Messages by their data."""
        self.forbidden: set[int] = set()
        """Data of entries that are masked: the write of the mask has been answered."""
        self.late: list[int] = []
        """Messages that came all the same."""
        self.wired: set[int] = set()
        """MSI-X vectors with an eventfd."""
        self.takes_back = False
        """Whether an eventfd goes between the question for it and its use: SET_IRQS may do that."""
        self.failures: list[BaseException] = []

    def send_message(self, address: int, data: int) -> Verdict:
        if data in self.forbidden:
            self.late.append(data)
        self.sent[data] += 1
        verdict = Verdict()
        verdict.set_result(b"")
        return verdict

    def irq_is_wired(self, index: int, vector: int) -> bool:
        return index == IrqIndexNumber.MSIX and vector in self.wired

    def trigger_irq(self, index: int, vector: int) -> bool:
        if self.takes_back:
            self.wired.discard(vector)
        return self.irq_is_wired(index, vector)

    def defer(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.failures.append(error)

    def dma_read(self, address: int, count: int) -> bytes:
        raise AssertionError("no memory is accessed here")

    def dma_write(self, address: int, data: bytes) -> None:
        raise AssertionError("no memory is accessed here")


class Guest:
    """A guest's hands on the function, from any thread."""

    def __init__(self, function: ImsFunction, client: Client):
        self.function = function
        self.client = client
        self.memory: mmap.mmap | None = None
        fd = function.regions[BAR_IMS].fd
        if fd is not None:
            self.memory = mmap.mmap(fd, BAR_IMS_SIZE)

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        self.function.region_write(region, offset, value.to_bytes(size, "little"))

    def read(self, region: int, offset: int, size: int) -> int:
        return int.from_bytes(self.function.region_read(region, offset, size), "little")

    def program_ims(self, index: int) -> None:
        self.store_ims(16 * index, 8, ADDRESS)
        self.store_ims(16 * index + 8, 4, index)

    def store_ims(self, offset: int, size: int, value: int) -> None:
        if self.memory is None:
            self.write(BAR_IMS, offset, size, value)
        else:
            self.memory[offset : offset + size] = value.to_bytes(size, "little")

    def mask_ims(self, index: int, on: bool) -> None:
        """Write a mask bit, so that it is in force on return."""
        self.store_ims(16 * index + 12, 4, int(on))
        if self.memory is not None:
            self.read(BAR_CONTROL, Register.ID, 4)

    def control_msix(self, *, function_mask: bool) -> None:
        place = self.function.config.capabilities[CapabilityId.MSIX].offset
        self.write(RegionIndex.CONFIG, place + 2, 2, 1 << 15 | function_mask << 14)

    def ims_pending(self, index: int) -> bool:
        return bool(self.read(BAR_CONTROL, Register.IMS_PENDING, 4) >> index & 1)

    def look_around(self, rng: random.Random) -> None:
        """Read what shows pending bits, and do what a handler does."""
        msi = self.function.config.capabilities[CapabilityId.MSI].offset
        self.read(BAR_CONTROL, Register.IMS_PENDING + 4 * rng.randrange(64), 4)
        self.read(BAR_MSIX, MSIX_PBA_OFFSET, 8)
        self.read(RegionIndex.CONFIG, msi + 0x14, 4)
        slot = Register.EVENT_IMS + 8 * rng.randrange(ENTRIES)
        if sequence := self.read(BAR_CONTROL, slot, 8):
            self.write(BAR_CONTROL, slot, 8, sequence)

    def pending(self) -> set[tuple[Store, int]]:
        """Return every interrupt whose pending bit is set."""
        return {(e.store, e.index) for e in self.function.stores() if e.pending}

    def pending_events(self) -> set[tuple[Store, int]]:
        """Return every interrupt with an event that is pending."""
        events = self.function.ledger.events()
        return {(e.store, e.index) for e in events if e.fate is Fate.PENDING}


@pytest.fixture
def rng() -> random.Random:
    seed = int(os.environ.get("IMSH_SEED") or time.time_ns())
    log.warning("IMSH_SEED=%d is the seed", seed)  # shown when the test fails
    return random.Random(seed)


@pytest.fixture(params=[False, True], ids=["trapped", "mapped"])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    spec = ImsFunctionSpec(ims_mapped=request.param, msix_vectors=ENTRIES)
    client = Client()
    interval = sys.getswitchinterval()
    with ImsFunction(spec) as function:
        function.attached(client)
        guest = Guest(function, client)
        guest.write(RegionIndex.CONFIG, Header.COMMAND, 2, 0x6)
        sys.setswitchinterval(1e-6)
        try:
            yield guest
        finally:
            sys.setswitchinterval(interval)
            function.detached()
            if guest.memory is not None:
                guest.memory.close()
    assert client.failures == []


def together(seconds: float, rng: random.Random, *works: Callable[[random.Random], None]) -> None:
    """Call each work over and over, all of them at once; what one raises is raised here."""
    over = threading.Event()

    def repeat(work: Callable[[random.Random], None], own: random.Random) -> None:
        try:
            while not over.is_set():
                work(own)
        finally:
            over.set()

    with ThreadPoolExecutor(len(works)) as pool:
        done = [pool.submit(repeat, work, random.Random(rng.random())) for work in works]
        over.wait(seconds)
        over.set()
    for future in done:
        future.result()


def raising(guest: Guest, *stores: Store) -> Callable[[random.Random], None]:
    return lambda rng: void(
        guest.function.raise_interrupt(rng.choice(stores), rng.randrange(ENTRIES))
    )


def void(_: object) -> None:
    pass


def test_no_message_leaves_behind_its_mask_and_a_raise_under_it_is_held(
    guest: Guest, rng: random.Random
) -> None:
    client = guest.client
    for index in range(ENTRIES):
        guest.program_ims(index)
        guest.mask_ims(index, False)

    def owner(index: int) -> Callable[[random.Random], None]:
        def work(rng: random.Random) -> None:
            guest.mask_ims(index, True)
            client.forbidden.add(index)
            outcome = guest.function.raise_interrupt(Store.IMS, index).fate
            assert outcome in (Fate.PENDING, Fate.MERGED)
            assert guest.ims_pending(index)
            before = client.sent[index]
            client.forbidden.discard(index)
            guest.mask_ims(index, False)
            deadline = time.monotonic() + 5
            while client.sent[index] == before:
                assert time.monotonic() < deadline, "what was held is never sent"
                time.sleep(0)

        return work

    together(
        SECONDS,
        rng,
        *(owner(index) for index in range(2)),
        raising(guest, Store.IMS),
        raising(guest, Store.IMS),
        guest.look_around,
    )
    assert client.late == []


def test_pending_bits_and_pending_events_agree_after_resets(
    guest: Guest, rng: random.Random
) -> None:
    def reset(rng: random.Random) -> None:
        guest.write(BAR_CONTROL, Register.CONTROL, 4, 2)

    def unmask(rng: random.Random) -> None:
        index = rng.randrange(ENTRIES)
        guest.program_ims(index)
        guest.mask_ims(index, rng.random() < 0.5)

    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        everything = raising(guest, Store.IMS, Store.MSIX, Store.MSI)
        together(0.02, rng, reset, unmask, everything, everything, guest.look_around)
        assert guest.pending() == guest.pending_events()
        events = guest.function.ledger.events()
        assert [event for event in events if event.fate is Fate.RAISED] == []


def test_an_interrupt_that_is_rewired_meanwhile_is_not_refused(
    guest: Guest, rng: random.Random
) -> None:
    def rewire(rng: random.Random) -> None:
        vector = rng.randrange(ENTRIES)
        guest.client.wired ^= {vector}
        guest.function.irqs_changed(IrqIndexNumber.MSIX, vector, 1)

    def mask(rng: random.Random) -> None:
        guest.control_msix(function_mask=rng.random() < 0.5)
        guest.client.takes_back = rng.random() < 0.5

    guest.control_msix(function_mask=False)
    together(SECONDS, rng, rewire, mask, raising(guest, Store.MSIX), raising(guest, Store.MSIX))
    assert guest.function.ledger.counts()["blocked"] == 0
    assert guest.pending() == guest.pending_events()
