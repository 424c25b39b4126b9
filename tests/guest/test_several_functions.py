"""Several functions in one machine: each has its driver, its IRTEs, and no other's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from harness.config.matrix import Cell
from harness.devices.ims_function.function import ImsFunction
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.host.deadline import Deadline, timeout_factor, wait_until
from harness.spec.interrupt import Store
from harness.testbed.lender import PORTS_OF_A_TEST, VmLender
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import blocked, deliver, store_message

pytestmark = pytest.mark.shared_vm("module")

Pair = tuple[PluggedFunction, PluggedFunction]


@pytest.fixture
def pair(vm: Vm) -> Iterator[Pair]:
    """Two functions: the array of the one is mapped into the guest, the other's is trapped."""
    with ExitStack() as stack:
        mapped, trapped = (
            stack.enter_context(vm.ims_function(ImsFunctionSpec(ims_mapped=mapped)))
            for mapped in (True, False)
        )
        yield mapped, trapped


@pytest.mark.capability("B2", "E3")
def test_two_functions_have_interrupts_and_irtes_of_their_own(pair: Pair) -> None:
    for function in pair:
        function.set_up(Store.MSIX, 2)
        function.set_up(Store.IMS, 4)
    for index in range(4):
        for function in pair:
            deliver(function, Store.IMS, index)
            deliver(function, Store.MSIX, index % 2)
    for function in pair:
        function.check_audit()
        function.model.ledger.assert_quiet()
    first, second = (set(function.irtes()) for function in pair)
    assert (len(first), len(second), first & second) == (6, 6, set())


@pytest.mark.capability("E3")
def test_only_the_accesses_to_the_trapped_array_are_seen(pair: Pair) -> None:
    counts = []
    for function in pair:
        with function.trapped() as traps:
            function.set_up(Store.IMS, 4)
        counts.append(traps[Store.IMS])
    assert counts[0] == 0 < counts[1]


@pytest.mark.capability("D8")
@pytest.mark.parametrize("sender", [0, 1], ids=["mapped", "trapped"])
def test_a_function_is_refused_the_other_ones_irte(pair: Pair, sender: int) -> None:
    thief, owner = pair[sender], pair[1 - sender]
    for function in pair:
        function.set_up(Store.IMS, 3)
    own = thief.message(Store.IMS, 2)
    foreign = owner.message(Store.IMS, 2)
    store_message(thief, 2, foreign)
    assert f"(0x26), from {thief.requester_id}" in blocked(thief, 2).reason
    owner.model.ledger.assert_quiet()
    # With the same message the owner gets through, and the thief with its own.
    deliver(owner, Store.IMS, 2)
    store_message(thief, 2, own)
    deliver(thief, Store.IMS, 2)


@pytest.mark.kernel("debian-6.12")
@pytest.mark.machine("caching")
def test_a_reply_of_ours_is_waited_for_as_long_as_all_else(vm: Vm, pair: Pair) -> None:
    for function in pair:
        path = f"/machine/peripheral/{function.place.identifier}"
        asked = {"path": path, "property": "x-msg-timeout"}
        assert vm.machine.qmp.execute("qom-get", asked) == round(5000 * timeout_factor())


def test_a_driver_is_found_by_its_function_and_not_by_its_order(pair: Pair) -> None:
    first, second = pair
    for function in pair:
        function.unbind()
    for function in (second, first):
        function.bind()
    assert second.control.number < first.control.number
    for function in pair:
        assert function.control.facts().slot == function.slot
        function.set_up(Store.IMS, 2)
        deliver(function, Store.IMS, 0, 1)
        function.check_audit()


def test_a_function_without_a_driver_stands_beside_one_with(vm: Vm) -> None:
    nobodys = ImsFunctionSpec(device_id=0x5EED, msi_vectors=0)
    with vm.plugged(ImsFunction(nobodys)) as bystander, vm.ims_function() as driven:
        driven.set_up(Store.IMS, 2)
        deliver(driven, Store.IMS, 0, 1)
        found = Deadline(20, "the other function in the guest's list")
        listed = "ls /sys/bus/pci/devices"
        wait_until(lambda: bystander.slot in vm.ssh.run(listed).stdout, found)
        seen = vm.control.read_file(f"/sys/bus/pci/devices/{bystander.slot}/device")
        assert int(seen, 16) == 0x5EED
        assert bystander.irtes() == {}


@pytest.mark.kernel("debian-6.12")
@pytest.mark.machine("caching")
def test_a_shared_guest_is_lent_while_it_has_room_for_a_whole_test(
    vm_lender: VmLender, vm_cell: Cell
) -> None:
    vm = vm_lender.shared_vm(vm_cell, "room")
    with ExitStack() as stack:
        while vm.free_ports > PORTS_OF_A_TEST:
            stack.enter_context(vm.plugged(ImsFunction()))
        assert vm_lender.shared_vm(vm_cell, "room") is vm
        stack.enter_context(vm.plugged(ImsFunction()))
    assert vm_lender.shared_vm(vm_cell, "room") is not vm
