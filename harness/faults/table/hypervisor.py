"""Faults of the vIRTE call's host side: the model of the hypervisor (docs/virte.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from harness.devices.virte_function.function import VirteFunction
from harness.faults.fault import Fault
from harness.faults.seed import Original, Replacement
from harness.hypervisor.entry import UNTOLD, Block, HostEntry, Route, Sender
from harness.hypervisor.handles import generation_of, index_of
from harness.hypervisor.host import Blocked, Host
from harness.hypervisor.partition import Partition
from harness.hypervisor.rules import route_of
from harness.spec.hypercall import CallStatus, EntryAnswer, EntryRequest
from harness.spec.msi import Message
from harness.testbed.emulated_msix import EmulatedMsix
from harness.testbed.emulated_senders import VirtioSender
from harness.testbed.served_sender import ServedSender


def _handles_live_on(take_down: Original) -> Original:
    def live_on(self: Partition, block: Block) -> None:
        kept = {entry.handle: entry for entry in block.entries}
        take_down(self, block)
        self.host.entries.update(kept)

    return live_on


def _unmaps_nothing(unmap: Original) -> Original:
    def nothing(self: Partition, request: EntryRequest) -> EntryAnswer:
        self._held(request.handle)
        return EntryAnswer(CallStatus.OK)

    return nothing


def _overlooks(what: Blocked) -> Callable[[Original], Original]:
    def make(entry_of: Original) -> Original:
        def admit(self: Host, *arguments: object) -> tuple[HostEntry | None, Blocked | None]:
            entry, reason = entry_of(self, *arguments)
            return entry, None if reason is what else reason

        return admit

    return make


def _takes_all_for_told(is_told: Original) -> Original:
    def told(self: VirteFunction, requester: int) -> bool:
        return True

    return told


def _tells_nothing(sender: Original) -> Original:
    def nothing(self: VirteFunction, place: int, data: int) -> Sender:
        return UNTOLD

    return nothing


def _masks_nothing(masked: Original) -> Original:
    def unmasked(self: EmulatedMsix, vector: int) -> bool:
        return False

    return unmasked


def _drops_nothing(take: Original) -> Original:
    def sent(self: ServedSender, event: str, text: str) -> list[Message]:
        return self._note(event, text)

    return sent


def _doubts_nothing(doubt: Original) -> Original:
    return lambda _device: None


def _forgets_what_is_late(set_route: Original) -> Original:
    def forget(self: Partition, entry: HostEntry, route: Route | None) -> None:
        entry.route = route

    return forget


def _tears_down_first(retarget: Original) -> Original:
    def tear_down(self: Partition, request: EntryRequest) -> EntryAnswer:
        if entry := self.host.entries.get(request.handle):
            entry.route = route_of(request)
        answer: EntryAnswer = retarget(self, request)
        return answer

    return tear_down


def _at_once(hand_out: Original) -> Original:
    def at_once(self: Partition, block: Block, route: Route | None) -> None:
        block.handed_out = True
        block.entries[0].route = route

    return at_once


def _keeps_the_route(retarget: Original) -> Original:
    def keep(self: Partition, request: EntryRequest) -> EntryAnswer:
        return self._answer(self._held(request.handle))

    return keep


def _takes_a_part(take_down: Original) -> Original:
    def part(self: Partition, block: Block) -> None:
        count = len(block.entries)
        take_down(self, block)
        if count > 1:  # the others never come back
            self.host.handles.take(count - 1)
            self._live += count - 1

    return part


def _rewrites_the_pair(retarget: Original) -> Original:
    def rewrite(self: Partition, request: EntryRequest) -> EntryAnswer:
        answer: EntryAnswer = retarget(self, request)
        self.host.entries[request.handle].page ^= 1
        return answer

    return rewrite


def _any_generation(entry_of: Original) -> Original:
    def any_generation(
        self: Host, partition: object, page: int, offset: int, data: int, *sender: object
    ) -> tuple[HostEntry | None, Blocked | None]:
        live = {index_of(handle): generation_of(handle) for handle in self.entries}
        offset = 4 * live.get(data, 0) or offset
        found: tuple[HostEntry | None, Blocked | None] = entry_of(
            self, partition, page, offset, data, *sender
        )
        return found

    return any_generation


def _revives_nothing(revive: Original) -> Original:
    def nothing(self: Partition, request: EntryRequest) -> EntryAnswer:
        return self._answer(self._held(request.handle))

    return nothing


HYPERVISOR_FAULTS: Final = (
    Fault(
        name="host-keeps-dead-handles",
        imitates="entries are not dead at once when they are freed (a2bad844a67b)",
        seed=Replacement(Partition, "_take_down", _handles_live_on),
        rows=("D4",),
        tests=("test_virte_failures.py",),
    ),
    Fault(
        name="host-unmaps-nothing",
        imitates="a free that is answered and not carried out (shape, Hyper-V)",
        seed=Replacement(Partition, "unmap", _unmaps_nothing),
        rows=("D2", "D4"),
        tests=("test_virte.py", "test_virte_failures.py"),
    ),
    Fault(
        name="host-checks-no-origin",
        imitates="a sender that is not verified (shape of a wrong source id)",
        seed=Replacement(Host, "_entry_of", _overlooks(Blocked.WRONG_SOURCE)),
        rows=("D8",),
        tests=("test_virte_failures.py", "test_virte_origin.py"),
    ),
    Fault(
        name="host-is-told-no-sender",
        imitates="messages of MSI and MSI-X that are told by their address alone (shape)",
        seed=Replacement(VirteFunction, "_sender", _tells_nothing),
        rows=("D8",),
        tests=("test_virte_origin.py",),
        machine="remapping-only",  # where DMA is translated, they do not get as far
    ),
    Fault(
        name="host-serves-whom-nobody-tells",
        imitates="a handle for a device whose messages pass for another's (shape)",
        seed=Replacement(VirteFunction, "_is_told", _takes_all_for_told),
        rows=("D8",),
        tests=("test_virte_stock_origin.py",),
        machine="remapping-only",
    ),
    Fault(
        name="host-takes-what-is-held-back-for-sent",
        imitates="a message that passes for one that its device holds back behind a mask (shape)",
        seed=Replacement(EmulatedMsix, "_masked", _masks_nothing),
        rows=("D8",),
        tests=("test_virte_stock_origin.py",),
        machine="remapping-only",
    ),
    Fault(
        name="host-takes-what-is-dropped-for-sent",
        imitates="a message that passes for one that bus mastering has held up for good (shape)",
        seed=Replacement(ServedSender, "take", _drops_nothing),
        rows=("D8",),
        tests=("test_virte_origin.py",),
        machine="remapping-only",
    ),
    Fault(
        name="host-believes-a-device-given-up",
        imitates="a message that passes for one of a device that is out of order (shape)",
        seed=Replacement(VirtioSender, "doubt", _doubts_nothing),
        rows=("D8",),
        tests=("test_virte_stock_origin.py",),
        machine="remapping-only",
    ),
    Fault(
        name="host-checks-no-pasid",
        imitates="a sender that is verified by half: the PASID is not looked at (shape)",
        seed=Replacement(Host, "_entry_of", _overlooks(Blocked.WRONG_PASID)),
        rows=("D9",),
        tests=("test_virte_pasid.py",),
    ),
    Fault(
        name="host-tears-the-old-route-down-first",
        imitates="a retarget that fails after the old route was torn down (shape)",
        seed=Replacement(Partition, "retarget", _tears_down_first),
        rows=("D3",),
        tests=("test_virte_failures.py",),
    ),
    Fault(
        name="host-forgets-what-is-late",
        imitates="an invalidation that is answered before the interrupts are drained (shape)",
        seed=Replacement(Partition, "_set_route", _forgets_what_is_late),
        rows=("D3",),
        tests=("test_virte_moves.py",),
    ),
    Fault(
        name="host-retargets-nothing",
        imitates="a retarget that is answered and not carried out (shape)",
        seed=Replacement(Partition, "retarget", _keeps_the_route),
        rows=("D3",),
        tests=("test_virte.py",),
    ),
    Fault(
        name="host-hands-out-half-a-pair",
        imitates="a pair given out before both halves of the host are ready (shape)",
        seed=Replacement(Partition, "_hand_out", _at_once),
        rows=("D6",),
        tests=("test_virte.py",),
    ),
    Fault(
        name="host-takes-a-part-of-a-block-back",
        imitates="the partial free of a range (shape)",
        seed=Replacement(Partition, "_take_down", _takes_a_part),
        rows=("D2", "D4"),
        tests=("test_virte.py",),
    ),
    Fault(
        name="host-rewrites-the-pair-on-a-move",
        imitates="a move that makes a new pair, which no store has (shape, Hyper-V root)",
        seed=Replacement(Partition, "retarget", _rewrites_the_pair),
        rows=("D2", "D3"),
        tests=("test_virte.py",),
    ),
    Fault(
        name="host-checks-no-generation",
        imitates="a handle that is taken for the one that had its number before (shape)",
        seed=Replacement(Host, "_entry_of", _any_generation),
        rows=("D4",),
        tests=("test_virte_failures.py",),
    ),
    Fault(
        name="host-revives-nothing",
        imitates="a quench that is never revived (shape)",
        seed=Replacement(Partition, "revive", _revives_nothing),
        rows=("D10",),
        tests=("test_virte_storm.py",),
    ),
)
