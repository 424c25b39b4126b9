"""A guest that makes nonsense calls from every CPU at once: each has a status, and all goes on."""

from __future__ import annotations

import random

import pytest

from harness.spec.hypercall import (
    BAR_FRAMES,
    BAR_REGISTERS,
    FRAME_SIZE,
    CallStatus,
    Operation,
    Register,
    entry_offset,
)
from harness.spec.interrupt import Store
from harness.testbed.supplies import DEFAULT_KERNEL
from harness.testbed.vm import Vm
from tests.guest import devmem
from tests.guest.calling_guest import CallingGuest
from tests.guest.support import Virte, bind, deliver, unbind

CALLS = 12
"""By each CPU. A write takes a program of its own in the guest."""
FIRST_HANDLE = 1 << 16
"""Of a host that has given out none: index 0 in its first generation."""
DWORDS = 8
"""Of the request half of an entry."""


def sound(rng: random.Random, operation: int) -> dict[int, int]:
    """Return the dwords of an entry that breaks no rule, those that are not zero."""
    handle = {6: FIRST_HANDLE + rng.randrange(4)}
    route = {4: 0, 5: 64}
    return {
        Operation.MAP: {0: Store.IMS, 1: 1, 2: rng.randrange(4)} | route,
        Operation.RETARGET: handle | route,
        Operation.UNMAP: {1: 1} | handle,
    }.get(Operation(operation), handle)


def nonsense(rng: random.Random, bars: dict[int, int], frame: int) -> list[str]:
    """Return the commands of one call: nothing is wrong with it, or one dword, or its access."""
    operation = rng.choice([op for op in Operation if op > Operation.RELEASE])
    header = [1 << 16 | operation, 0]
    entry = [sound(rng, operation).get(dword, 0) for dword in range(DWORDS)]
    spoiled = rng.choice([None, header, entry, entry])
    if spoiled is not None:
        spoiled[rng.randrange(len(spoiled))] = rng.getrandbits(32)
    return call(bars, frame, [*header, *entry], rng.choice([8, 16, 32, 32, 32, 32]))


def certain(rng: random.Random, bars: dict[int, int], frame: int) -> list[str]:
    """Return the commands of calls that are OK, INVALID and NO_SUCH_HANDLE, whoever else calls."""
    entries = {
        Operation.MAP: sound(rng, Operation.MAP),
        Operation.QUERY: {6: FIRST_HANDLE << 4},
        Operation.UNMAP: {6: FIRST_HANDLE, 7: 1},
    }
    words = []
    for operation, entry in entries.items():
        dwords = [entry.get(dword, 0) for dword in range(DWORDS)]
        words += call(bars, frame, [1 << 16 | operation, 0, *dwords], 32)
    return words


def call(bars: dict[int, int], frame: int, dwords: list[int], size: int) -> list[str]:
    """Return the commands that write the request of a call into a frame and make it."""
    base = bars[BAR_FRAMES] + frame * FRAME_SIZE
    places = [base, base + 4, *(base + entry_offset(0) + 4 * dword for dword in range(DWORDS))]
    made = bars[BAR_REGISTERS] + Register.CALL + 4 * frame
    request = dict(zip(places, dwords, strict=True))
    return [*devmem.write(request), devmem.read(made, size)]


@pytest.mark.capability("D2", "D8")
@pytest.mark.shared_vm("module")
@pytest.mark.kernel(DEFAULT_KERNEL)
@pytest.mark.machine("remapping-only")
def test_nonsense_from_every_cpu_has_a_status_and_the_driver_works_after_it(
    vm: Vm, virte: Virte
) -> None:
    model = virte.model
    unbind(vm, virte.slot)
    # Else every call had the same answer: it was not negotiated.
    assert CallingGuest(vm, virte).negotiate().status == CallStatus.OK
    bars = {bar: virte.bar_address(bar) for bar in (BAR_REGISTERS, BAR_FRAMES)}
    rng = random.Random(20261128)
    made = len(model.calls)
    loops = []
    for cpu in (0, 1):
        frames = [rng.choice([3, 4 + cpu]) for _ in range(CALLS)]  # one is fought for
        words = certain(rng, bars, 4 + cpu)
        words += [word for frame in frames for word in nonsense(rng, bars, frame)]
        vm.ssh.put("\n".join(words).encode(), f"/run/nonsense{cpu}")
        loops.append(f"taskset {1 << cpu} sh /run/nonsense{cpu} >/dev/null &")
    vm.ssh.run(" ".join([*loops, "wait"]))
    virte.check_alive()
    statuses = [call.answer.status for call in list(model.calls)[made:]]
    assert set(statuses) <= set(CallStatus)
    assert {CallStatus.OK, CallStatus.INVALID, CallStatus.NO_SUCH_HANDLE} <= set(statuses)
    made_or_refused = 2 * (CALLS + 3)
    assert 0 < len(statuses) < made_or_refused, "reads of other sizes are no calls"
    assert model.refusals.count == made_or_refused - len(statuses)
    host = model.partition.host
    assert host.handles.free + model.partition.live == host.handles.size

    bind(vm, virte.slot, "virte")
    with vm.ims_function() as device:
        device.set_up(Store.IMS, 2)
        deliver(device, Store.IMS, 0, 1)
