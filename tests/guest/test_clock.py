"""The guest's clock, tied to the one of the stream. Not a row: what a timeline stands on."""

from __future__ import annotations

import pytest

from harness.events.stream import now
from harness.guest.control import Answered, Asked
from harness.host.tsc import tsc_khz
from harness.testbed.vm import Vm


def test_the_guests_clock_is_tied_to_ours_and_says_how_well(vm: Vm) -> None:
    first, second = vm.guest_clock(), vm.guest_clock()
    assert abs(first.offset - second.offset) <= first.error + second.error
    assert 0 < first.error < 1_000_000_000

    # What the guest reads now was, by our clock, between the question and the answer.
    mark = vm.machine.events.mark()
    shown = vm.guest_time()
    (asked,) = vm.machine.events.of(Asked, mark)
    (answered,) = vm.machine.events.of(Answered, mark)
    assert asked.when - first.error <= first.ours(shown) <= answered.when + first.error
    assert answered.when <= now()


@pytest.mark.machine("caching")
def test_the_kernel_is_told_the_rate_of_its_time_stamp_counter(vm: Vm) -> None:
    rate = tsc_khz()
    if rate is None:
        pytest.skip("the time stamp counter of this host has no constant rate")
    assert f"tsc: Detected {rate / 1000:.3f} MHz" in vm.kernel_log()
    # By this udelay() counts, on each CPU: twice the ticks of a microsecond.
    lines = vm.control.read_file("/proc/cpuinfo").splitlines()
    counted = [float(line.split()[-1]) for line in lines if line.startswith("bogomips")]
    assert len(counted) == vm.spec.cpus
    assert counted == pytest.approx([2 * rate / 1000] * len(counted), rel=0.001)
