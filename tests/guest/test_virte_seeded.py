"""A real guest and its host do anything over the vIRTE call, from a seed and for a bounded time.

At two levels: the machine of the model makes its calls in a real guest, and a machine of its own
drives the guest's driver.

``IMSH_SEED`` gives the seed again that a failure shows, and ``IMSH_SECONDS`` another time.
"""

from __future__ import annotations

import logging
import os
import secrets
import time

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, run_state_machine_as_test

from harness.devices.virte_function.function import VirteFunction
from harness.hypervisor.host import Host
from harness.hypervisor.policy import Policy
from harness.spec.interrupt import Store
from harness.testbed.supplies import DEFAULT_KERNEL
from harness.testbed.vm import Vm
from tests.guest.calling_guest import CallingGuest
from tests.guest.support import bind, deliver, unbind
from tests.guest.virte_machine import HANDLES, Bench, DrivenGuest
from tests.unit.hypercall_guest import Clock, Guest
from tests.unit.hypercall_machine import HANDLES as MODEL_HANDLES
from tests.unit.hypercall_machine import Calls

log = logging.getLogger(__name__)

SECONDS = float(os.environ.get("IMSH_SECONDS") or 12)
"""When no further round is begun."""
SEEDS = 1 << 32
ROUND = settings(
    max_examples=4,  # the first is the shortest there is
    stateful_step_count=20,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # a guest is not asked again and again for a shorter way to fail
    suppress_health_check=list(HealthCheck),
)

pytestmark = [
    pytest.mark.timeout(SECONDS + 240),
    pytest.mark.shared_vm("module"),
    pytest.mark.kernel(DEFAULT_KERNEL),
    pytest.mark.machine("remapping-only"),
]


@pytest.mark.capability("D2", "D3", "D5", "D10")
def test_any_operations_in_any_order_leave_guest_and_host_sound(vm: Vm) -> None:
    policy = Policy()
    call = VirteFunction(Host(HANDLES, time.monotonic), policy)
    with vm.granted_call(call) as virte:
        with vm.ims_function() as device:

            class Machine(DrivenGuest):
                bench = Bench(vm, virte, policy, device)

            run_from_seeds(Machine)
            policy.stop_failing()
            policy.owns = lambda segment, requester: True
        unbind(vm, virte.slot)
    vm.check_kernel_log()


@pytest.mark.capability("D1", "D2", "D3", "D4", "D8", "D10")
def test_any_calls_in_any_order_leave_the_host_sound(vm: Vm) -> None:
    clock = Clock()
    shared = Host(MODEL_HANDLES, clock)
    with vm.granted_call(VirteFunction(shared)) as virte:
        unbind(vm, virte.slot)
        caller = CallingGuest(vm, virte)

        class Machine(Calls):
            @initialize()
            def start(self) -> None:
                self.clock, self.host = clock, shared
                caller.begin(Policy(quota=MODEL_HANDLES))
                self.guests = [caller, Guest(shared, Policy(quota=MODEL_HANDLES))]
                self.negotiate()

            def teardown(self) -> None:
                for guest in self.guests:
                    guest.partition.reset()

        made = len(virte.model.calls)
        run_from_seeds(Machine)
        caller.begin(Policy(quota=MODEL_HANDLES))
        virte.check_alive()
        assert len(virte.model.calls) > made
        assert shared.handles.free == shared.handles.size
        bind(vm, virte.slot, "virte")
        with vm.ims_function() as device:
            device.set_up(Store.IMS, 2)
            deliver(device, Store.IMS, 0, 1)
        unbind(vm, virte.slot)
    vm.check_kernel_log()


def run_from_seeds(machine: type[RuleBasedStateMachine]) -> None:
    """Run rounds of a machine until the time is over."""
    number = int(os.environ.get("IMSH_SEED") or secrets.randbelow(SEEDS))
    ends = time.monotonic() + SECONDS  # not stretched: a slow machine drives less
    while time.monotonic() < ends:
        log.warning("IMSH_SEED=%d is the seed", number)  # shown when the test fails
        run_state_machine_as_test(seed(number)(machine), settings=ROUND)
        number = (number + 1) % SEEDS
