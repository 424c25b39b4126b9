"""Interrupt messages: real pairs, decoded by hand from figures 5-1 and 5-2 of the VT-d document."""

from __future__ import annotations

import pytest

from harness.spec.msi import (
    NULL_MESSAGE,
    CompatibilityMessage,
    DeliveryMode,
    Message,
    MessageEntry,
    RemappableMessage,
    VectorControl,
)


@pytest.mark.parametrize(
    ("address", "data", "expected"),
    [
        # 218h: format (4), SHV (3), handle 218h >> 5 = 16. A root port's under a v6.12 guest.
        (0xFEE00218, 0x0, RemappableMessage(16, 0)),
        # The third message of a capability at handle 64.
        (0xFEE00818, 0x2, RemappableMessage(64, 2)),
        # Bit 2 is handle bit 15.
        (0xFEE0001C, 0x0, RemappableMessage(0x8000, 0)),
        (0xFEEFFFFC, 0x0, RemappableMessage(0xFFFF, 0)),
        # SHV clear: an IO-APIC pin at handle 1; its data is its own business.
        (0xFEE00030, 0x00010002, RemappableMessage(1, None)),
        # Bits 1:0 are ignored.
        (0xFEE0021B, 0x0, RemappableMessage(16, 0)),
        # LKML 2022, a kernel that wrote 32 bits of subhandle: reserved data bits under SHV.
        (0xFEE003D8, 0x00010000, RemappableMessage(30, 0, reserved=0x10000)),
    ],
)
def test_remappable_message_names_an_entry(
    address: int, data: int, expected: RemappableMessage
) -> None:
    assert Message(address, data).decode() == expected


@pytest.mark.parametrize(
    ("address", "data", "expected"),
    [
        (0xFEE00000, 0x4041, CompatibilityMessage(0, 0x41)),
        # Linux in xAPIC flat mode: CPU 1 is logical destination 2, with redirection hint.
        (0xFEE0200C, 0x0022, CompatibilityMessage(2, 0x22, logical=True, redirection_hint=True)),
        (0xFEEFF000, 0xC130, CompatibilityMessage(0xFF, 0x30, delivery_mode=1, level=True)),
        (0xFEE01000, 0x0400, CompatibilityMessage(1, 0, delivery_mode=DeliveryMode.NMI)),
        # KVM's extended destination id, APIC id 100h: bit 5, which the SDM reserves.
        (0xFEE00020, 0x0041, CompatibilityMessage(0, 0x41, reserved=0x20)),
    ],
)
def test_compatibility_message_names_processor_and_vector(
    address: int, data: int, expected: CompatibilityMessage
) -> None:
    assert Message(address, data).decode() == expected


def test_delivery_modes_have_the_encodings_of_section_9_9() -> None:
    assert [(mode.name, mode.value) for mode in DeliveryMode] == [
        ("FIXED", 0b000),
        ("LOWEST_PRIORITY", 0b001),
        ("SMI", 0b010),
        ("NMI", 0b100),
        ("INIT", 0b101),
        ("EXTINT", 0b111),
    ]


def test_index_is_handle_plus_subhandle_and_can_exceed_16_bits() -> None:
    assert RemappableMessage(64, 2).index == 66
    assert RemappableMessage(64, None).index == 64
    assert RemappableMessage(0xFFFF, 1).index == 0x10000


def test_messages_are_composed_as_linux_does() -> None:
    # drivers/iommu/intel/irq_remapping.c, fill_msi_msg(): SHV always set.
    assert RemappableMessage(16, 0).message() == Message(0xFEE00218, 0)
    assert RemappableMessage(0x8001, 3).message() == Message(0xFEE0003C, 3)
    assert CompatibilityMessage(1, 0x41).message() == Message(0xFEE01000, 0x41)
    assert CompatibilityMessage(2, 0x22, logical=True, redirection_hint=True).message() == Message(
        0xFEE0200C, 0x22
    )


def test_an_address_above_4_gib_is_no_interrupt_and_shows_as_reserved() -> None:
    message = Message(0x1_FEE00218, 0)
    assert not message.is_interrupt
    assert message.decode() == RemappableMessage(16, 0, reserved=1)


def test_null_message_is_no_interrupt() -> None:
    assert NULL_MESSAGE.is_null
    assert not NULL_MESSAGE.is_interrupt
    assert not Message(0xFEE00000, 0).is_null
    with pytest.raises(ValueError, match="is not an interrupt message"):
        NULL_MESSAGE.decode()


def test_msix_entry_stands_little_endian_with_the_mask_in_bit_0_of_its_last_dword() -> None:
    raw = bytes.fromhex("1802e0fe 00000000 02000000 01000000")
    entry = MessageEntry.unpack(raw)
    assert entry == MessageEntry(0xFEE00218, 2, VectorControl(mask=1))
    assert entry.pack() == raw
