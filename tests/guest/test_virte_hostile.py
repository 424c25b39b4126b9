"""A guest that makes nonsense calls from every CPU at once: each has a status, and all goes on."""

from __future__ import annotations

import random

import pytest

from harness.spec.hypercall import (
    BAR_FRAMES,
    BAR_REGISTERS,
    FRAME_ENTRIES,
    FRAME_SIZE,
    CallStatus,
    Operation,
    Register,
    entry_offset,
)
from harness.spec.interrupt import Store
from harness.testbed.supplies import DEFAULT_KERNEL
from harness.testbed.vm import Vm
from tests.guest.support import Virte, bind, deliver, unbind

CALLS = 12
"""By each CPU. A write takes a program of its own in the guest."""


def nonsense(rng: random.Random, bars: dict[int, int], frame: int) -> list[str]:
    """Return the commands of one call, of which a part is sound most times."""
    base = bars[BAR_FRAMES] + frame * FRAME_SIZE
    operation = rng.choice([*Operation, rng.getrandbits(16)])
    count = rng.choice([0, 1, 2, FRAME_ENTRIES, rng.getrandbits(16)])
    places = [entry_offset(0) + 4 * dword for dword in range(8)]
    writes = {base: count << 16 | operation, base + 4: rng.choice([0, rng.getrandbits(32)])}
    for place in rng.sample(places, 3):
        writes[base + place] = rng.choice([Store.IMS, 1, rng.getrandbits(32)])
    commands = [f"devmem {address:#x} 32 {value:#x}" for address, value in writes.items()]
    size = rng.choice([8, 16, 32, 32, 32])
    call = bars[BAR_REGISTERS] + Register.CALL + 4 * frame
    return [*commands, f"devmem {call:#x} {size}"]


@pytest.mark.capability("D2", "D8")
@pytest.mark.shared_vm("module")
@pytest.mark.kernel(DEFAULT_KERNEL)
@pytest.mark.machine("remapping-only")
def test_nonsense_from_every_cpu_has_a_status_and_the_driver_works_after_it(
    vm: Vm, virte: Virte
) -> None:
    model = virte.model
    unbind(vm, virte.slot)
    vm.ssh.run(f"echo 1 >/sys/bus/pci/devices/{virte.slot}/enable")
    bars = {bar: virte.bar_address(bar) for bar in (BAR_REGISTERS, BAR_FRAMES)}
    rng = random.Random(20261128)
    made = len(model.calls)
    loops = []
    for cpu in (0, 1):
        frames = [rng.choice([3, 4 + cpu]) for _ in range(CALLS)]  # one is fought for
        words = [word for frame in frames for word in nonsense(rng, bars, frame)]
        vm.ssh.put("\n".join(words).encode(), f"/run/nonsense{cpu}")
        loops.append(f"taskset {1 << cpu} sh /run/nonsense{cpu} >/dev/null &")
    vm.ssh.run(" ".join([*loops, "wait"]))
    virte.check_alive()
    statuses = [call.answer.status for call in list(model.calls)[made:]]
    assert set(statuses) <= set(CallStatus)
    assert CallStatus.INVALID in statuses
    assert 0 < len(statuses) < 2 * CALLS, "reads of other sizes are no calls"
    assert model.refusals.count == 2 * CALLS - len(statuses)
    host = model.partition.host
    assert host.handles.free + model.partition.live == host.handles.size

    bind(vm, virte.slot, "virte")
    with vm.ims_function() as device:
        device.set_up(Store.IMS, 2)
        deliver(device, Store.IMS, 0, 1)
