"""Fixtures of the guest tests.

Of those about the vIRTE call: the guest's driver negotiates as it is bound; what is bound after it
is in the new scheme. The hypervisor is the model, over its function.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from harness.build.provision import Provisioner
from harness.devices.virte_function.function import VirteFunction
from harness.hypervisor.host import Host
from harness.hypervisor.policy import Policy
from harness.testbed.plugged import PluggedFunction
from harness.testbed.snapshots import Snapshots
from harness.testbed.vm import Vm
from tests.guest.support import Virte, unbind


@pytest.fixture(scope="session")
def snapshots(provisioner: Provisioner) -> Snapshots:
    """The snapshots of the cache, each checked when it is first asked for."""
    return Snapshots(provisioner.cache, provisioner.qemu())


@pytest.fixture
def policy() -> Policy:
    """The hypervisor's policy, to be changed at any time."""
    return Policy()


CALL_REACHES = 7
"""The APIC id of the last CPU that every mode leads a message of the call to: in x2APIC mode each
CPU has one of the 8 bits of its destination."""


@pytest.fixture
def virte(vm: Vm, policy: Policy) -> Iterator[Virte]:
    """The function of the call, with a guest that has negotiated."""
    ids = vm.spec.apic_ids or range(vm.spec.cpus)
    if far := [number for number in ids if number > CALL_REACHES]:
        pytest.skip(f"APIC ids {far}: the call reaches those up to {CALL_REACHES} (docs/virte.md)")
    with vm.granted_call(VirteFunction(Host(4096, time.monotonic), policy)) as served:
        yield served
        unbind(vm, served.slot)
        partition = served.model.partition
        assert (partition.negotiated, partition.live) == (False, 0)


@pytest.fixture
def device(vm: Vm, virte: Virte) -> Iterator[PluggedFunction]:
    """The IMS function, bound after the negotiation."""
    with vm.ims_function() as plugged:
        yield plugged
