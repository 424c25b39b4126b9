"""Translation of a message by a VT-d unit: what is delivered, and each reason to block."""

from __future__ import annotations

import pytest

from harness.remapping.translate import Delivered, Fault, Posted, Translation, translate
from harness.remapping.unit import RemappingTable
from harness.spec.msi import DeliveryMode, Message
from harness.spec.pci import RequesterId
from harness.spec.vtd import FaultReason, Register
from tests.unit.remapping_samples import ENTRIES, TABLE, Memory, unit

FUNCTION = RequesterId.of(1)
OTHER = RequesterId.of(0, 4)
IR_OFF = {int(Register.GSTS): 0}
XAPIC = {int(Register.IRTA): TABLE | 0xF}
CFIS = {int(Register.GSTS): 0x07800000}
POSTING = {int(Register.CAP) + 4: 0x88D2008C}


def message_to(index: int, data: int = 0) -> Message:
    """Compose by hand: FEEh, index in 19:5 and 2, format and SHV in 4:3."""
    return Message(0xFEE00018 | (index & 0x7FFF) << 5 | index >> 15 << 2, data)


def outcome_of(
    message: Message,
    sender: RequesterId = FUNCTION,
    *,
    entry: tuple[int, int] | None = None,
    registers: dict[int, int] | None = None,
) -> Translation:
    """Translate on the sample unit; ``entry`` replaces IRTE 19 (high, low)."""
    state = unit(registers)
    entries = ENTRIES if entry is None else {**ENTRIES, 19: entry}
    return translate(message, sender, state, RemappingTable.of(state, Memory(entries)).read_entry)


def reason_of(outcome: Translation) -> FaultReason:
    assert isinstance(outcome, Fault), outcome
    return outcome.reason


def test_message_of_the_right_sender_is_delivered_as_its_entry_says() -> None:
    assert outcome_of(message_to(19)) == Delivered(
        vector=0x23,
        destination=1,
        delivery_mode=DeliveryMode.FIXED,
        logical=True,
        redirection_hint=True,
        level=False,
        index=19,
    )


def test_a_delivered_interrupt_reads_as_a_route() -> None:
    assert str(outcome_of(message_to(19))) == ("vector 0x23 to logical destination 0x1 by IRTE 19")
    assert str(outcome_of(Message(0xFEE01000, 0x41), registers=IR_OFF)) == (
        "vector 0x41 to APIC id 0x1 unremapped"
    )


def test_subhandle_is_added_to_the_handle() -> None:
    outcome = outcome_of(message_to(18, data=2))
    assert isinstance(outcome, Delivered)
    assert (outcome.index, outcome.vector) == (20, 0x24)


def test_data_is_ignored_without_shv() -> None:
    outcome = outcome_of(Message(0xFEE00010 | 19 << 5, 0xFFFF0002))
    assert isinstance(outcome, Delivered)
    assert outcome.index == 19


def test_xapic_entry_gives_an_8_bit_destination() -> None:
    outcome = outcome_of(message_to(19), entry=(0x40100, 0x000002000025000D), registers=XAPIC)
    assert isinstance(outcome, Delivered)
    assert (outcome.destination, outcome.vector) == (2, 0x25)


def test_level_trigger_and_delivery_mode_come_from_the_entry() -> None:
    outcome = outcome_of(message_to(19), entry=(0x40100, 0x0000000700300091))
    assert outcome == Delivered(0x30, 7, DeliveryMode.NMI, False, False, True, 19)


# ------------------------------------------------------------------------------ faults, in order


def test_20h_reserved_data_bits_under_shv() -> None:
    assert reason_of(outcome_of(message_to(19, data=0x10000))) == FaultReason.REQUEST_RESERVED


def test_21h_index_beyond_the_table() -> None:
    small = {int(Register.IRTA): TABLE | 0x807}
    assert isinstance(outcome_of(message_to(22), OTHER, registers=small), Delivered)
    outcome = outcome_of(message_to(256), registers=small)
    assert outcome == Fault(FaultReason.INDEX_BEYOND_TABLE, FUNCTION, 256)


def test_21h_index_that_needs_17_bits() -> None:
    # 16 bits would make this IRTE 19.
    outcome = outcome_of(message_to(0xFFFF, data=20))
    assert outcome == Fault(FaultReason.INDEX_BEYOND_TABLE, FUNCTION, 0x10013)


def test_22h_entry_not_present() -> None:
    outcome = outcome_of(message_to(17))
    assert outcome == Fault(FaultReason.ENTRY_NOT_PRESENT, FUNCTION, 17)


def test_23h_table_is_not_in_memory() -> None:
    nowhere = {int(Register.IRTA): 0x7F000 | 0x80F}
    outcome = outcome_of(message_to(19), registers=nowhere)
    assert outcome == Fault(FaultReason.TABLE_UNREADABLE, FUNCTION, 19)


@pytest.mark.parametrize("bit", [12, 31, 84, 127])
def test_24h_reserved_bits_in_the_entry(bit: int) -> None:
    value = (0x40100 << 64 | 0x000000010023000D) | 1 << bit
    entry = (value >> 64, value & (1 << 64) - 1)
    assert reason_of(outcome_of(message_to(19), entry=entry)) == FaultReason.ENTRY_RESERVED


def test_24h_wide_destination_in_xapic_mode() -> None:
    outcome = outcome_of(message_to(19), entry=(0x40100, 0x000000010023000D), registers=XAPIC)
    assert reason_of(outcome) == FaultReason.ENTRY_RESERVED


@pytest.mark.parametrize("mode", [0b011, 0b110])
def test_24h_reserved_delivery_mode(mode: int) -> None:
    entry = (0x40100, 0x000000010023000D | mode << 5)
    assert reason_of(outcome_of(message_to(19), entry=entry)) == FaultReason.ENTRY_RESERVED


def test_24h_posted_entry_on_a_unit_without_posting() -> None:
    outcome = outcome_of(message_to(19), entry=(0x0000000100040100, 0x234567400051C001))
    assert reason_of(outcome) == FaultReason.ENTRY_RESERVED


def test_posted_entry_gives_descriptor_and_virtual_vector() -> None:
    outcome = outcome_of(
        message_to(19), entry=(0x0000000100040100, 0x234567400051C001), registers=POSTING
    )
    assert outcome == Posted(vector=0x51, descriptor=0x123456740, urgent=True, index=19)


def test_25h_compatibility_format_in_x2apic_mode_even_with_cfis() -> None:
    message = Message(0xFEE01000, 0x41)
    assert reason_of(outcome_of(message)) == FaultReason.COMPATIBILITY_BLOCKED
    assert reason_of(outcome_of(message, registers=CFIS)) == FaultReason.COMPATIBILITY_BLOCKED


def test_25h_compatibility_format_in_xapic_mode_without_cfis() -> None:
    message = Message(0xFEE01000, 0x41)
    assert reason_of(outcome_of(message, registers=XAPIC)) == FaultReason.COMPATIBILITY_BLOCKED
    passed = outcome_of(message, registers={**XAPIC, **CFIS})
    assert isinstance(passed, Delivered)
    assert (passed.vector, passed.destination, passed.index) == (0x41, 1, None)


def test_26h_another_function_of_the_same_device() -> None:
    outcome = outcome_of(message_to(19), RequesterId.of(1, 0, 1))
    assert outcome == Fault(FaultReason.SOURCE_ID_MISMATCH, RequesterId.of(1, 0, 1), 19)
    assert str(outcome) == "blocked at IRTE 19: source id mismatch (0x26), from 01:00.1"


@pytest.mark.parametrize(
    ("qualifier", "allowed"),
    [
        # SID 01:00.0; functions 0 to 7 of the same device are tried.
        (0b00, {0}),
        (0b01, {0, 4}),
        (0b10, {0, 2, 4, 6}),
        (0b11, {0, 1, 2, 3, 4, 5, 6, 7}),
    ],
)
def test_26h_source_qualifier_leaves_function_bits_out(qualifier: int, allowed: set[int]) -> None:
    entry = (0x40100 | qualifier << 16, 0x000000010023000D)
    passed = {
        function
        for function in range(8)
        if isinstance(
            outcome_of(message_to(19), RequesterId(0x100 | function), entry=entry), Delivered
        )
    }
    assert passed == allowed
    # Never the device number.
    other = outcome_of(message_to(19), RequesterId.of(1, 1, 0), entry=entry)
    assert reason_of(other) == FaultReason.SOURCE_ID_MISMATCH


@pytest.mark.parametrize(
    ("bus", "allowed"), [(1, False), (2, True), (3, True), (4, True), (5, False)]
)
def test_26h_bus_range_includes_both_ends(bus: int, allowed: bool) -> None:
    # SVT 10b, SID 0204h: buses 2 to 4, any device.
    outcome = outcome_of(
        message_to(19), RequesterId.of(bus, 9, 3), entry=(0x80204, 0x000000010023000D)
    )
    assert isinstance(outcome, Delivered) is allowed


def test_no_source_is_checked_with_svt_00b_and_none_passes_with_svt_11b() -> None:
    assert isinstance(
        outcome_of(message_to(19), OTHER, entry=(0x00100, 0x000000010023000D)), Delivered
    )
    outcome = outcome_of(message_to(19), FUNCTION, entry=(0xC0100, 0x000000010023000D))
    assert reason_of(outcome) == FaultReason.SOURCE_ID_MISMATCH


def test_29h_address_outside_the_interrupt_range() -> None:
    for address in (0, 0xFED00218, 0x1_FEE00218):
        outcome = outcome_of(Message(address, 0))
        assert reason_of(outcome) == FaultReason.MALFORMED_REQUEST


def test_2ah_and_2bh_on_units_that_require_extended_mode_or_remapping() -> None:
    ecap_high = int(Register.ECAP) + 4
    eimer = {ecap_high: 1 << 29}
    assert reason_of(outcome_of(message_to(19), registers={**eimer, **XAPIC})) == 0x2A
    assert isinstance(outcome_of(message_to(19), registers=eimer), Delivered)
    irreq = {ecap_high: 1 << 30}
    assert reason_of(outcome_of(message_to(19), registers={**irreq, **IR_OFF})) == 0x2B


def test_the_source_is_checked_before_the_entry_s_reserved_bits() -> None:
    # Section 5.1.4; QEMU has it the other way round.
    outcome = outcome_of(message_to(19), RequesterId.of(2), entry=(0x40100, 0x000000010023100D))
    assert reason_of(outcome) == FaultReason.SOURCE_ID_MISMATCH


def test_fault_disable_keeps_qualified_faults_from_being_recorded() -> None:
    assert outcome_of(message_to(19), entry=(0, 0b10)) == Fault(
        FaultReason.ENTRY_NOT_PRESENT, FUNCTION, 19, recorded=False
    )
    assert outcome_of(message_to(19), entry=(0, 0b00)) == Fault(
        FaultReason.ENTRY_NOT_PRESENT, FUNCTION, 19, recorded=True
    )


def test_without_remapping_every_message_is_compatibility_format() -> None:
    passed = outcome_of(Message(0xFEE01000, 0x4041), registers=IR_OFF)
    assert passed == Delivered(0x41, 1, DeliveryMode.FIXED, False, False, False, None)
    # One in remappable format is misread: APIC id and vector come from handle and data.
    misread = outcome_of(Message(0xFEE03218, 0x22), registers=IR_OFF)
    assert isinstance(misread, Delivered)
    assert (misread.vector, misread.destination, misread.index) == (0x22, 3, None)
