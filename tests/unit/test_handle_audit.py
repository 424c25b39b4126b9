"""Each way in which the hypervisor, the guest and a store may disagree about a handle is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.devices.virte_function.function import VirteFunction
from harness.hypervisor.entry import Refused
from harness.hypervisor.host import Host
from harness.hypervisor.policy import Policy
from harness.pci.store import StoreEntry
from harness.remapping.audit import GuestInterrupt, Kind
from harness.remapping.handle_audit import HandleView, audit_handles
from harness.spec.hypercall import VERSION_1_0, Feature
from harness.spec.interrupt import InterruptName, Store
from harness.spec.msi import Message
from harness.spec.pci import RequesterId
from harness.testbed.views import handles_of
from tests.unit.hypercall_guest import DEVICE, Clock, ims

NAME = InterruptName(Store.IMS, 3)
PAIR = Message(0xC000_0004, 7)
HANDLE = HandleView(0x1_0007, NAME, PAIR, destination=1, vector=0x41)
GUEST = GuestInterrupt(virq=40, requested=True, vector=0x41, destination=1, message=PAIR, name=NAME)
STORED = StoreEntry(
    interrupt=NAME, address=PAIR.address, data=PAIR.data, masked=False, pending=False, enabled=True
)


def kinds(
    handles: list[HandleView], guest: GuestInterrupt | None = GUEST, stored: StoreEntry = STORED
) -> list[Kind]:
    return [item.kind for item in audit_handles(handles, [guest] if guest else [], [stored])]


def test_views_that_agree_give_nothing() -> None:
    assert kinds([HANDLE]) == []


@pytest.mark.parametrize(
    ("handle", "kind"),
    [
        (replace(HANDLE, vector=0x42), Kind.WRONG_VECTOR),
        (replace(HANDLE, destination=0), Kind.WRONG_DESTINATION),
        (replace(HANDLE, vector=None, destination=None), Kind.MISSING_ROUTE),
    ],
)
def test_a_route_that_is_not_the_guests(handle: HandleView, kind: Kind) -> None:
    assert kinds([handle]) == [kind]


def test_a_requested_interrupt_without_a_handle_whose_store_could_send() -> None:
    assert kinds([]) == [Kind.MISSING_HANDLE, Kind.MESSAGE_DIFFERS]


def test_a_handle_that_the_guest_does_not_know() -> None:
    assert kinds([HANDLE], None) == [Kind.ORPHAN_HANDLE]


def test_a_pair_that_the_guest_has_changed() -> None:
    assert kinds([HANDLE], replace(GUEST, message=Message(PAIR.address, 8))) == [
        Kind.MESSAGE_DIFFERS
    ]


def test_a_store_that_holds_another_pair() -> None:
    assert kinds([HANDLE], stored=replace(STORED, data=8)) == [Kind.MESSAGE_DIFFERS]
    assert kinds([HANDLE], stored=replace(STORED, data=8, masked=True)) == []


def test_a_parked_handle_may_fill_a_block_of_msi() -> None:
    name = InterruptName(Store.MSI, 3)
    parked = replace(HANDLE, interrupt=name, vector=None, destination=None)
    assert kinds([HANDLE, parked]) == []
    assert kinds([HANDLE, replace(parked, vector=0x42)]) == [Kind.ORPHAN_HANDLE]


def test_a_handle_that_is_still_starting_is_not_the_guests() -> None:
    clock = Clock()
    door = VirteFunction(Host(4, clock), Policy(start_seconds=0.5))
    door.partition.negotiate(VERSION_1_0, Feature.IMS)
    with pytest.raises(Refused, match="BUSY"):
        door.partition.map(ims())
    assert door.partition.live == 1
    assert handles_of([door], RequesterId(DEVICE)) == []
    clock.now += 0.5
    door.partition.map(ims())
    assert len(handles_of([door], RequesterId(DEVICE))) == 1
