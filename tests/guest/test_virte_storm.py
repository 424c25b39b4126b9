"""Row D10 from a real guest: an interrupt that storms is quenched, and the guest revives it."""

from __future__ import annotations

import pytest

from harness.devices.ledger import Fate
from harness.host.deadline import Deadline, wait_until
from harness.hypervisor.host import Blocked
from harness.hypervisor.policy import Policy, StormLimit
from harness.spec.hypercall import CallStatus, Operation
from harness.spec.interrupt import Store
from harness.testbed.plugged import PluggedFunction
from tests.guest.support import Virte, deliver, other_cpu

pytestmark = pytest.mark.shared_vm("module")

LIMIT = 20


@pytest.mark.cpus(2)
@pytest.mark.capability("D10")
def test_a_quenched_interrupt_is_blocked_until_the_guest_has_learnt_of_it_and_revived_it(
    virte: Virte, policy: Policy, device: PluggedFunction
) -> None:
    model = virte.model
    device.set_up(Store.IMS, 3)
    policy.storm, policy.cool_down_seconds = StormLimit(LIMIT, 60.0), 0.3
    policy.fail(Operation.REVIVE, CallStatus.FAILED)
    deliver(device, Store.IMS, *[1] * LIMIT)
    stopped = device.model.raise_interrupt(Store.IMS, 1)
    blocked = model.partition.host.blocked
    wait_until(lambda: blocked[Blocked.QUENCHED] == 1, Deadline(5, "the quenched message"))
    (quenched,) = (entry for entry in model.partition.entries() if entry.quenched_at is not None)
    assert quenched.source.index == 1
    assert model.partition.status.quenched
    assert stopped.fate is Fate.BLOCKED
    deliver(device, Store.IMS, 0, 2)

    def asked(operation: Operation) -> list[CallStatus]:
        calls = [call for call in model.calls if call.request.operation == operation]
        return [CallStatus(call.answer.status) for call in calls]

    # The guest learns of it from the answer to whatever it calls for next.
    assert not asked(Operation.QUERY)
    assert not asked(Operation.REVIVE)
    device.move(Store.IMS, other_cpu(device, device.control.interrupt(Store.IMS, 2).cpu), 2)
    wait_until(lambda: quenched.quenched_at is None, Deadline(5, "the revival"))
    assert asked(Operation.QUERY)
    # A host that refuses is asked again, as one that wants to wait.
    assert {CallStatus.FAILED, CallStatus.BUSY, CallStatus.OK} == set(asked(Operation.REVIVE))
    assert not model.partition.status.quenched
    deliver(device, Store.IMS, 1, 0, 2)
