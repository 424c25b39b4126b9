"""The audit (row B8): a sound system gives no finding, and each kind of disagreement is named."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from harness.remapping.audit import (
    Disagreement,
    GuestInterrupt,
    Kind,
    audit,
)
from harness.spec.interrupt import InterruptName, Store
from harness.spec.msi import Message
from harness.spec.pci import RequesterId
from harness.spec.vtd import Entry, decode_entry
from tests.unit.remapping_samples import ENTRIES

pytestmark = pytest.mark.capability("B8")

IO_APIC = 0xFF00
ROOT_PORT = 0x0018
FUNCTION = RequesterId.of(1)
PLACEHOLDER = 0xEF  # MANAGED_IRQ_SHUTDOWN_VECTOR

# What the IMS function's interrupts have in the table, beside the sample's own entries:
# two MSI messages in one block, two IMS entries.
OWN_ENTRIES = {
    32: (0x40100, 0x000000010026000D),
    33: (0x40100, 0x000000010027000D),
    40: (0x40100, 0x000000020026000D),
    41: (0x40100, 0x0000000100EF000D),
}


@dataclass(frozen=True)
class View:
    """One entry of a store, as a device model shows it."""

    store: Store
    index: int
    address: int | None
    data: int | None
    masked: bool | None
    enabled: bool = True

    @property
    def interrupt(self) -> InterruptName:
        return InterruptName(self.store, self.index)


def own(virq: int, handle: int, vector: int, to: int, **more: Any) -> GuestInterrupt:
    """An interrupt of the IMS function, at 01:00.0."""
    return GuestInterrupt(
        virq=virq,
        domains=("IR-PCI-MSIX-0000:01:00.0", "INTEL-IR-0", "VECTOR"),
        requested=more.pop("requested", True),
        handle=handle,
        vector=vector,
        destination=to,
        logical=True,
        source_id=FUNCTION,
        **more,
    )


def other(virq: int, handle: int, vector: int, to: int, sender: int) -> GuestInterrupt:
    """An interrupt of a device that is not audited."""
    return replace(own(virq, handle, vector, to), source_id=RequesterId(sender))


def interrupts() -> dict[int, GuestInterrupt]:
    """The guest's list, by virq."""
    msix = [Message(0xFEE00258, 0), Message(0xFEE00278, 0), Message(0xFEE00298, 0)]
    listed = [
        other(1, 0, 0x21, 1, IO_APIC),
        other(0, 1, 0x30, 1, IO_APIC),
        other(4, 3, 0x22, 1, IO_APIC),
        other(8, 7, 0x22, 2, IO_APIC),
        other(9, 8, 0x20, 2, IO_APIC),
        other(12, 11, 0x21, 2, IO_APIC),
        other(24, 16, 0x20, 1, ROOT_PORT),
        own(25, 18, 0x23, 2, message=msix[0], name=InterruptName(Store.MSIX, 0)),
        own(26, 19, 0x23, 1, message=msix[1], name=InterruptName(Store.MSIX, 1)),
        own(27, 20, 0x24, 2, message=msix[2], name=InterruptName(Store.MSIX, 2)),
        other(28, 21, 0x24, 1, 0x0020),
        other(29, 22, 0x25, 2, 0x0020),
        own(30, 32, 0x26, 1, message=Message(0xFEE00418, 0), name=InterruptName(Store.MSI, 0)),
        own(31, 33, 0x27, 1, message=Message(0xFEE00418, 1), name=InterruptName(Store.MSI, 1)),
        own(32, 40, 0x26, 2, message=Message(0xFEE00518, 0), name=InterruptName(Store.IMS, 7)),
        # Allocated and not requested: a placeholder in the table, masked in the store.
        own(
            33,
            41,
            PLACEHOLDER,
            1,
            message=Message(0xFEE00538, 0),
            name=InterruptName(Store.IMS, 8),
            requested=False,
        ),
        # Released: the entry is cleared.
        own(34, 42, PLACEHOLDER, 1, name=InterruptName(Store.IMS, 9), requested=False),
        # The DMAR fault event, never behind remapping.
        GuestInterrupt(virq=35, domains=("DMAR-MSI", "VECTOR"), requested=True, vector=0x28),
    ]
    return {interrupt.virq: interrupt for interrupt in listed}


def stores() -> dict[tuple[Store, int], View]:
    """What the device shows: MSI-X lives in the client's table and is not known."""
    views = [
        View(Store.MSI, 0, 0xFEE00418, 0, False),
        View(Store.MSI, 1, 0xFEE00418, 1, False),
        View(Store.MSIX, 0, None, None, None),
        View(Store.MSIX, 1, None, None, None),
        View(Store.MSIX, 2, None, None, None),
        View(Store.MSIX, 3, None, None, None, enabled=False),
        View(Store.IMS, 7, 0xFEE00518, 0, False),
        View(Store.IMS, 8, 0xFEE00538, 0, True),
        View(Store.IMS, 9, 0, 0, True),
        # Left over from an interrupt that is gone: masked, so of no harm.
        View(Store.IMS, 10, 0xFEE00558, 0, True),
    ]
    return {(view.store, view.index): view for view in views}


@dataclass
class System:
    """The three views, to be changed by a test and then audited."""

    entries: dict[int, Entry] = field(
        default_factory=lambda: {
            index: decode_entry(high << 64 | low)
            for index, (high, low) in {**ENTRIES, **OWN_ENTRIES}.items()
        }
    )
    interrupts: dict[int, GuestInterrupt] = field(default_factory=interrupts)
    stores: dict[tuple[Store, int], View] = field(default_factory=stores)
    extended_mode: bool = True

    def set_entry(self, index: int, **fields: int) -> None:
        self.entries[index] = self.entries[index].replace(**fields)

    def set_bits(self, index: int, bits: int) -> None:
        self.entries[index] = decode_entry(self.entries[index].value | bits)

    def set_interrupt(self, virq: int, **fields: Any) -> None:
        self.interrupts[virq] = replace(self.interrupts[virq], **fields)

    def set_view(self, store: Store, index: int, **fields: Any) -> None:
        self.stores[store, index] = replace(self.stores[store, index], **fields)

    def audit(self) -> list[Disagreement]:
        return audit(
            self.entries,
            list(self.interrupts.values()),
            list(self.stores.values()),
            extended_mode=self.extended_mode,
        )

    def kinds(self) -> list[Kind]:
        return [finding.kind for finding in self.audit()]

    def only_finding(self) -> Disagreement:
        (finding,) = self.audit()
        return finding


@pytest.fixture
def system() -> System:
    return System()


def test_a_sound_system_gives_no_finding(system: System) -> None:
    assert system.audit() == []


def test_an_entry_that_no_interrupt_owns_is_an_orphan(system: System) -> None:
    system.entries[99] = system.entries[19]
    finding = system.only_finding()
    assert (finding.kind, finding.entry, finding.virq) == (Kind.ORPHAN_ENTRY, 99, None)
    assert "IRTE 99 is present and belongs to no interrupt" in finding.sentence


def test_a_requested_interrupt_without_entry_is_named(system: System) -> None:
    del system.entries[19]
    finding = system.only_finding()
    assert (finding.kind, finding.entry, finding.virq) == (Kind.MISSING_ENTRY, 19, 26)


def test_an_interrupt_that_is_not_requested_needs_no_entry(system: System) -> None:
    del system.entries[41]
    system.set_view(Store.IMS, 8, address=0)
    assert system.audit() == []


def test_two_interrupts_on_one_entry_are_named(system: System) -> None:
    system.interrupts[50] = replace(system.interrupts[26], virq=50, name=None)
    finding = system.only_finding()
    assert (finding.kind, finding.entry) == (Kind.SHARED_ENTRY, 19)
    assert "irq 26 (MSIX 1) and irq 50 both have IRTE 19" in finding.sentence


def test_a_posted_entry_is_named(system: System) -> None:
    system.entries[19] = decode_entry(0x0000000100040100 << 64 | 0x234567400051C001)
    assert system.only_finding().kind == Kind.POSTED_ENTRY


@pytest.mark.parametrize("bit", [12, 31, 84, 127])
def test_reserved_bits_in_an_entry_are_named(system: System, bit: int) -> None:
    system.set_bits(19, 1 << bit)
    finding = system.only_finding()
    assert finding.kind == Kind.RESERVED_BITS
    assert f"{1 << bit:#x}" in finding.sentence


def test_a_wide_destination_in_xapic_mode_has_reserved_bits(system: System) -> None:
    system.extended_mode = False
    reserved = [finding for finding in system.audit() if finding.kind == Kind.RESERVED_BITS]
    assert len(reserved) == len(system.entries)


def test_the_reserved_source_validation_is_named(system: System) -> None:
    system.set_entry(19, source_validation=0b11)
    assert system.kinds() == [
        Kind.RESERVED_BITS,
        Kind.WRONG_SOURCE_VALIDATION,
    ]


@pytest.mark.parametrize(
    ("field_name", "value", "kind"),
    [
        ("vector", 0x55, Kind.WRONG_VECTOR),
        ("destination_id", 4, Kind.WRONG_DESTINATION),
        ("destination_mode", 0, Kind.WRONG_DESTINATION),
        ("delivery_mode", 0b100, Kind.WRONG_DELIVERY),
        ("trigger_mode", 1, Kind.WRONG_DELIVERY),
        ("source_validation", 0b00, Kind.WRONG_SOURCE_VALIDATION),
        ("source_qualifier", 0b11, Kind.WRONG_SOURCE_QUALIFIER),
        ("source_id", 0x0101, Kind.WRONG_SOURCE_ID),
    ],
)
def test_a_field_that_differs_from_the_guest_s_list_is_named(
    system: System, field_name: str, value: int, kind: Kind
) -> None:
    system.set_entry(19, **{field_name: value})
    finding = system.only_finding()
    assert (finding.kind, finding.entry, finding.virq) == (kind, 19, 26)


def test_an_hpet_that_leaves_the_function_out_is_sound_when_so_expected(system: System) -> None:
    system.set_entry(16, source_qualifier=0b11)
    system.set_interrupt(24, source_qualifier=0b11)
    assert system.audit() == []


def test_what_the_guest_does_not_say_is_not_compared(system: System) -> None:
    system.set_entry(19, vector=0x55, destination_id=4, destination_mode=0, source_id=0x0101)
    system.set_interrupt(26, vector=None, destination=None, logical=None, source_id=None)
    assert system.audit() == []


def test_a_placeholder_with_a_wrong_vector_is_named(system: System) -> None:
    system.set_entry(41, vector=0x26)
    assert system.only_finding().kind == Kind.WRONG_VECTOR


# ------------------------------------------------------------------------------ messages


def test_a_guest_message_that_names_another_entry_is_named(system: System) -> None:
    # MSI-X 1 composed for IRTE 20: the store is not known, so only the guest's list can tell.
    system.set_interrupt(26, message=Message(0xFEE00298, 0))
    finding = system.only_finding()
    assert (finding.kind, finding.virq, finding.entry) == (Kind.FOREIGN_ENTRY, 26, 20)


def test_a_guest_message_in_compatibility_format_behind_remapping_is_named(system: System) -> None:
    system.set_interrupt(26, message=Message(0xFEE01000, 0x23))
    assert system.only_finding().kind == Kind.COMPATIBILITY_FORMAT


def test_a_store_that_holds_another_message_than_composed_is_named(system: System) -> None:
    # Subhandle left over from another composition: handle 39 + 1 is the same IRTE.
    system.set_view(Store.IMS, 7, address=0xFEE004F8, data=1)
    finding = system.only_finding()
    assert finding.kind == Kind.MESSAGE_DIFFERS
    assert (finding.interrupt, finding.virq) == (InterruptName(Store.IMS, 7), 32)


def test_a_store_that_names_a_foreign_entry_is_named(system: System) -> None:
    system.set_view(Store.IMS, 7, address=0xFEE00278)
    assert system.kinds() == [Kind.FOREIGN_ENTRY, Kind.MESSAGE_DIFFERS]


def test_a_store_that_names_an_absent_entry_is_named(system: System) -> None:
    system.set_view(Store.IMS, 7, address=0xFEE00D18)
    absent = system.audit()[-1]
    assert (absent.kind, absent.entry) == (Kind.ABSENT_ENTRY, 104)
    del system.entries[40]
    assert Kind.ABSENT_ENTRY in system.kinds()


def test_a_compatibility_message_in_a_store_behind_remapping_is_named(system: System) -> None:
    system.set_view(Store.IMS, 7, address=0xFEE01000, data=0x26)
    assert system.kinds() == [
        Kind.COMPATIBILITY_FORMAT,
        Kind.MESSAGE_DIFFERS,
    ]


def test_a_compatibility_message_is_sound_without_remapping() -> None:
    message = Message(0xFEE01000, 0x26)
    interrupt = GuestInterrupt(
        virq=26, requested=True, message=message, name=InterruptName(Store.MSI, 0), vector=0x26
    )
    view = View(Store.MSI, 0, message.address, message.data, False)
    assert audit({}, [interrupt], [view], extended_mode=False) == []


def test_reserved_bits_in_a_message_are_named(system: System) -> None:
    system.set_view(Store.IMS, 7, data=0x10000)
    assert system.kinds() == [Kind.RESERVED_BITS, Kind.MESSAGE_DIFFERS]


def test_a_message_outside_the_interrupt_range_is_named(system: System) -> None:
    system.set_view(Store.IMS, 7, address=0xFED00518)
    assert system.kinds() == [Kind.NOT_AN_INTERRUPT, Kind.MESSAGE_DIFFERS]


def test_an_unmasked_entry_with_the_null_message_is_named(system: System) -> None:
    system.set_view(Store.IMS, 7, address=0, data=0)
    assert system.only_finding().kind == Kind.NULL_MESSAGE


def test_a_null_msi_base_is_seen_on_every_message_that_is_still_requested(system: System) -> None:
    # Linux writes the null message when the first interrupt of the block is released.
    system.set_interrupt(30, requested=False, vector=PLACEHOLDER)
    del system.entries[32]
    system.set_view(Store.MSI, 0, address=0)
    system.set_view(Store.MSI, 1, address=0)
    finding = system.only_finding()
    assert (finding.kind, finding.virq) == (Kind.NULL_MESSAGE, 31)


def test_an_unmasked_entry_that_the_guest_does_not_know_is_named(system: System) -> None:
    system.set_view(Store.IMS, 10, masked=False)
    assert system.kinds() == [Kind.UNCLAIMED_STORE_ENTRY, Kind.ABSENT_ENTRY]


def test_an_entry_that_is_not_enabled_cannot_send_and_is_not_judged(system: System) -> None:
    system.set_view(Store.IMS, 10, masked=False, enabled=False)
    assert system.audit() == []


def test_a_requested_interrupt_that_is_masked_in_its_store_is_named(system: System) -> None:
    system.set_view(Store.IMS, 7, masked=True)
    assert system.only_finding().kind == Kind.UNEXPECTED_MASK
    system.set_interrupt(32, masked=True)
    assert system.audit() == []


def test_a_requested_interrupt_whose_store_is_off_is_named(system: System) -> None:
    system.set_view(Store.MSIX, 1, enabled=False)
    finding = system.only_finding()
    assert (finding.kind, finding.virq) == (Kind.UNEXPECTED_MASK, 26)


def test_a_requested_interrupt_that_its_store_has_no_entry_for_is_named(system: System) -> None:
    del system.stores[Store.IMS, 7]
    finding = system.only_finding()
    assert (finding.kind, finding.interrupt) == (
        Kind.MISSING_STORE_ENTRY,
        InterruptName(Store.IMS, 7),
    )


def test_a_store_of_which_no_entry_is_given_is_not_compared(system: System) -> None:
    system.stores = {key: view for key, view in system.stores.items() if key[0] != Store.IMS}
    assert system.audit() == []


def test_every_kind_of_finding_is_seen_in_this_file_or_that_of_handles() -> None:
    files = [Path(__file__), Path(__file__).with_name("test_handle_audit.py")]
    text = "".join(file.read_text() for file in files)
    assert [kind.name for kind in Kind if f"Kind.{kind.name}" not in text] == []
