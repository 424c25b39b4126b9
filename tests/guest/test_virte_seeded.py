"""A real guest and its host do anything over the vIRTE call, from a seed and for a bounded time.

``IMSH_SEED`` gives the seed again that a failure shows, and ``IMSH_SECONDS`` another time.
"""

from __future__ import annotations

import logging
import os
import secrets
import time

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from harness.devices.virte_function.function import VirteFunction
from harness.hypervisor.host import Host
from harness.hypervisor.policy import Policy
from harness.testbed.supplies import DEFAULT_KERNEL
from harness.testbed.vm import Vm
from tests.guest.virte_machine import HANDLES, Bench, DrivenGuest

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


@pytest.mark.capability("D2", "D3", "D5", "D10")
@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.shared_vm("module")
@pytest.mark.kernel(DEFAULT_KERNEL)
@pytest.mark.machine("remapping-only")
def test_any_operations_in_any_order_leave_guest_and_host_sound(vm: Vm) -> None:
    number = int(os.environ.get("IMSH_SEED") or secrets.randbelow(SEEDS))
    policy = Policy()
    call = VirteFunction(Host(HANDLES, time.monotonic), policy)
    with vm.granted_call(call) as virte, vm.ims_function() as device:

        class Machine(DrivenGuest):
            bench = Bench(vm, virte, policy, device)

        ends = time.monotonic() + SECONDS  # not stretched: a slow machine drives less
        while time.monotonic() < ends:
            log.warning("IMSH_SEED=%d is the seed", number)  # shown when the test fails
            run_state_machine_as_test(seed(number)(Machine), settings=ROUND)
            number = (number + 1) % SEEDS
        policy.stop_failing()
        policy.owns = lambda segment, requester: True
    vm.check_kernel_log()
