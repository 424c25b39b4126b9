"""The guest's clock, tied to the one of the stream. Not a row: what a timeline stands on."""

from __future__ import annotations

from harness.events.stream import now
from harness.guest.control import Answered, Asked
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
