"""Row D9 from a real guest: entries of IMS that its driver binds to a PASID."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterable

import pytest

from harness.guest.control import ControlError
from harness.host.deadline import Deadline
from harness.hypervisor.entry import HostEntry
from harness.hypervisor.host import Blocked
from harness.hypervisor.policy import DeliveryPath, Policy
from harness.spec.hypercall import EntryFlag, Feature, Operation
from harness.spec.interrupt import Store
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import Virte, bind, blocked, deliver, runs, store_message, unbind

pytestmark = pytest.mark.shared_vm("module")

PASID_MAX = 0xFFFFF


def set_up(device: PluggedFunction, pasid: int | None, *indices: int) -> None:
    """Allocate IMS entries in a row, bound to a PASID, and request them."""
    first, count = min(indices), len(indices)
    device.control.alloc(Store.IMS, count, index=first, pasid=pasid)
    device.control.request(Store.IMS, first, count)


def pasids(entries: Iterable[HostEntry]) -> dict[int, int | None]:
    """Return the PASID of each handle, by index in the store."""
    return {entry.source.index: entry.source.origin.pasid for entry in entries}


def refusal(device: PluggedFunction, store: Store, pasid: int) -> int:
    """Return the errno of an allocation that is refused."""
    with pytest.raises(ControlError) as caught:
        device.control.alloc(store, 1, pasid=pasid)
    return caught.value.errno


@pytest.mark.cpus(2)
@pytest.mark.capability("D9")
@pytest.mark.parametrize("path", list(DeliveryPath), ids=lambda path: path.name)
def test_entries_bound_to_pasids_are_mapped_delivered_moved_and_given_back(
    virte: Virte, policy: Policy, device: PluggedFunction, path: DeliveryPath
) -> None:
    policy.delivery = path
    partition = virte.model.partition
    set_up(device, 7, 0, 1)
    set_up(device, PASID_MAX, 2)
    set_up(device, 0, 3)
    set_up(device, None, 4)
    bound = {0: 7, 1: 7, 2: PASID_MAX, 3: 0, 4: None}
    assert pasids(partition.entries()) == bound
    for call in virte.model.calls:
        for request, _ in call.entries:
            if call.request.operation == Operation.MAP:
                pasid = request.pasid if request.flags & EntryFlag.PASID else None
                assert pasid == bound[request.index]

    deliver(device, Store.IMS, *bound)
    for cpu in (1, 0):
        for index in bound:
            device.move(Store.IMS, cpu, index)
            deadline = Deadline(10, f"entry {index} on CPU {cpu}")
            assert device.model.raise_and_wait(Store.IMS, index, deadline).cpu == cpu
    device.control.mask(Store.IMS, count=len(bound))
    device.control.unmask(Store.IMS, count=len(bound))
    deliver(device, Store.IMS, *bound)
    device.check_audit()
    assert partition.host.blocked.total() == 0
    device.control.release(Store.IMS, count=len(bound))
    device.control.free(Store.IMS, count=len(bound))
    assert partition.live == 0


@pytest.mark.capability("D8", "D9")
def test_an_entry_bound_to_a_pasid_refuses_every_other_and_none(
    virte: Virte, device: PluggedFunction
) -> None:
    set_up(device, 7, 0)
    set_up(device, 8, 1)
    pair, other = (device.message(Store.IMS, index) for index in (0, 1))
    ran = runs(device, Store.IMS, 0)
    for pasid in (8, 0, PASID_MAX, None):
        store_message(device, 0, dataclasses.replace(pair, pasid=pasid))
        blocked(device, 0)
        fault = virte.model.partition.host.faults[-1]
        assert (fault.reason, fault.pasid) == (Blocked.WRONG_PASID, pasid)
    # Nor does it get by with another's pair.
    store_message(device, 0, dataclasses.replace(other, pasid=7))
    blocked(device, 0)
    assert virte.model.partition.host.faults[-1].reason is Blocked.WRONG_PASID
    assert runs(device, Store.IMS, 0) == ran
    store_message(device, 0, dataclasses.replace(pair, pasid=7))
    deliver(device, Store.IMS, 0, 1)


@pytest.mark.capability("D9")
def test_an_entry_is_bound_anew_when_it_is_allocated_anew(
    virte: Virte, device: PluggedFunction
) -> None:
    partition = virte.model.partition
    for pasid in (7, 8, None):
        set_up(device, pasid, 0)
        assert pasids(partition.entries()) == {0: pasid}
        deliver(device, Store.IMS, 0)
        device.control.release(Store.IMS)
        device.control.free(Store.IMS)
    assert partition.host.blocked.total() == 0


@pytest.mark.capability("D9")
def test_a_pasid_that_nobody_could_check_is_an_error(
    vm: Vm, virte: Virte, policy: Policy, device: PluggedFunction
) -> None:
    assert refusal(device, Store.IMS, PASID_MAX + 1) == errno.EINVAL
    assert refusal(device, Store.MSIX, 7) == errno.EINVAL
    policy.features = ~Feature.PASID
    unbind(vm, virte.slot)
    bind(vm, virte.slot, "virte")
    device.bind()
    with pytest.raises(ControlError) as refused:
        set_up(device, 7, 0)
    assert refused.value.errno == errno.EOPNOTSUPP
    device.control.reset()
    set_up(device, None, 0)
    deliver(device, Store.IMS, 0)
    device.unbind()
    unbind(vm, virte.slot)
    device.bind()  # in the old scheme: an IRTE names no PASID
    assert refusal(device, Store.IMS, 7) == errno.EOPNOTSUPP
    device.unbind()
    bind(vm, virte.slot, "virte")
    device.bind()
