"""Faults of the device: its model goes wrong as hardware, or a hypervisor's emulation, would."""

from __future__ import annotations

from typing import Final

from harness.devices.delivery import Delivery
from harness.devices.ims_function.ims import ImsStore
from harness.devices.ledger import Event, Fate
from harness.faults.fault import Fault
from harness.faults.seed import Original, Replacement
from harness.pci.msi import MsiStore
from harness.pci.msix import MsixStore
from harness.pci.store import InterruptStore
from harness.remapping.translate import Fault as RemappingFault
from harness.spec.interrupt import Store
from harness.spec.msi import Message
from harness.testbed.source_gate import SourceGate
from harness.vfio_user.description import Description
from harness.vfio_user.device import Bus, Verdict


def _forgets(hold: Original) -> Original:
    def forget(self: Delivery, event: Event, state: InterruptStore) -> None:
        self._end(event, Fate.DROPPED, "the pending bit is lost")

    return forget


def _never_masked(masked: Original) -> Original:
    def never(self: object, index: int, *, wired: bool = False) -> bool:
        return False

    return never


def _maps_nothing(region_info: Original) -> Original:
    def nothing(self: Description, payload: bytes, *, max_fds: int) -> tuple[bytes, list[int]]:
        answer: tuple[bytes, list[int]] = region_info(self, payload, max_fds=0)
        return answer

    return nothing


def _follows(registers_written: Original) -> Original:
    def follow(self: MsiStore) -> None:
        self._was_enabled = False
        registers_written(self)

    return follow


def _twice(send: Original) -> Original:
    def twice(self: Delivery, event: Event, bus: Bus, message: Message) -> Verdict | None:
        verdict: Verdict | None = send(self, event, bus, message)
        bus.send_message(message.address & ~3, message.data)
        return verdict

    return twice


def _neighbour(message: Original) -> Original:
    def neighbour(self: object, index: int) -> Message:
        found: Message = message(self, index ^ 1)
        return found

    return neighbour


def _admits(route: Original) -> Original:
    def admit(
        self: SourceGate, store: Store, index: int, message: Message
    ) -> Message | RemappingFault:
        return message

    return admit


DEVICE_FAULTS: Final = (
    Fault(
        name="device-loses-pending-bits",
        imitates="pending bits ignored when a vector is unmasked (shape, vhost-user)",
        seed=Replacement(Delivery, "_hold", _forgets),
        rows=("A1", "A4"),
        tests=("test_msi.py", "test_ims.py"),
    ),
    Fault(
        name="device-ignores-msi-mask-bits",
        imitates="a device without mask bits treated as if it had some (3ece3e8e5976)",
        seed=Replacement(MsiStore, "masked", _never_masked),
        rows=("A1",),
        tests=("test_msi.py",),
    ),
    Fault(
        name="device-ignores-the-function-mask",
        imitates="a device that sends while MSI-X is masked as a whole (shape of b9255a7cb517)",
        seed=Replacement(MsixStore, "masked", _never_masked),
        rows=("A2",),
        tests=("test_msix.py::test_the_function_mask_holds_every_vector",),
    ),
    Fault(
        name="host-traps-a-mapped-store",
        imitates="a hypervisor that traps what it should map into the guest (shape)",
        seed=Replacement(Description, "region_info", _maps_nothing),
        rows=("E3",),
        tests=("test_trapping.py::test_a_mapped_array_costs_no_trapped_access_in_its_whole_life",),
    ),
    Fault(
        name="device-ignores-ims-mask-bits",
        imitates="an entry that sends while it is masked (shape of b9255a7cb517)",
        seed=Replacement(ImsStore, "masked", _never_masked),
        rows=("A4",),
        tests=("test_ims.py",),
    ),
    Fault(
        name="device-sends-twice",
        imitates="an interrupt in flight is doubled (shape)",
        seed=Replacement(Delivery, "_send_message", _twice),
        rows=("A4", "A6"),
        tests=("test_ims.py",),
    ),
    Fault(
        name="device-sends-the-neighbours-message",
        imitates="a re-routed vector ignored: another one's message is sent (shape, vhost-user)",
        seed=Replacement(ImsStore, "message", _neighbour),
        rows=("A4", "A6"),
        tests=("test_ims.py",),
    ),
    Fault(
        name="unit-checks-no-source",
        imitates="a sender that is not verified (shape of a wrong source id)",
        seed=Replacement(SourceGate, "route", _admits),
        rows=("B8", "D8"),
        tests=(
            "test_audit.py::test_a_message_from_the_wrong_source_is_blocked_and_the_others_arrive",
            "test_several_functions.py",
        ),
    ),
    Fault(
        name="device-latches-no-message-count",
        imitates="a device that follows the number of messages while MSI is on (shape)",
        seed=Replacement(MsiStore, "registers_written", _follows),
        rows=("A1",),
        tests=("test_msi.py::test_the_count_is_latched_when_msi_is_enabled_and_only_then",),
    ),
)
