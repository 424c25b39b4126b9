r"""Faults of the kernel's remapping level: drivers/iommu/intel/irq_remapping.c.

An IRTE is made in intel_irq_remapping_prepare_irte(), which compilers put into its caller. In the
structure that holds it (struct intel_ir_data) it begins at 10h or at 18h, by the kernel's version:
flags, vector, destination, source id and its validation follow at 0, 2, 4, 8 and 10 (VT-d 9.9).
"""

from __future__ import annotations

from typing import Final

from harness.faults.change import answer, immediate, narrowed, skip
from harness.faults.fault import Fault
from harness.faults.place import call_of, entry_of, instruction
from harness.faults.seed import Patch, Together

PREPARE: Final = (
    "intel_irq_remapping_prepare_irte",
    "intel_irq_remapping_alloc",
    "prepare_irte",
    "set_msi_sid",
)
FREE: Final = ("intel_free_irq_resources", "intel_irq_remapping_free", "clear_entries")
RETARGET: Final = (
    "intel_ir_set_affinity",
    "intel_ir_reconfigure_irte",
    "__intel_ir_reconfigure_irte",
)

REMAPPING_FAULTS: Final = (
    Fault(
        name="moved-irte-keeps-old-route",
        imitates="affinity set after start-up is lost: the IRTE is not rewritten (826da771291f)",
        seed=Patch(call_of("modify_irte", within=RETARGET), skip),
        rows=("B4", "G3"),
        tests=("test_affinity.py",),
    ),
    Fault(
        name="move-is-not-carried-out",
        imitates="affinity set after start-up is lost (ff363f480e59)",
        seed=Patch(entry_of("intel_ir_set_affinity"), answer(0)),
        rows=("B4", "G3"),
        tests=("test_affinity.py",),
    ),
    Fault(
        name="moved-irte-keeps-old-vector",
        imitates="affinity stale after a move: the new CPU gets the old vector (826da771291f)",
        seed=Patch(instruction(r"mov byte ptr \[\w+ \+ 0x1[2a]\], \w+", within=RETARGET), skip),
        rows=("B4", "G3"),
        tests=("test_affinity.py",),
    ),
    Fault(
        name="moved-irte-keeps-old-destination",
        imitates="affinity stale after a move: the old CPU gets the new vector (826da771291f)",
        seed=Patch(instruction(r"mov dword ptr \[\w+ \+ 0x1[4c]\], \w+", within=RETARGET), skip),
        rows=("B4", "G3"),
        tests=("test_affinity.py",),
    ),
    Fault(
        name="moved-irte-has-8-bits-of-destination",
        imitates="an APIC id cut to the bits that a message of compatibility format has (shape)",
        seed=Patch(
            instruction(r"mov dword ptr \[\w+ \+ 0x1[4c]\], e[abcd]x", within=RETARGET), narrowed
        ),
        rows=("B7",),
        tests=("test_apic_mode.py::test_a_cpu_is_reached_whatever_its_apic_id",),
        machine="large-apic-ids-physical",
    ),
    Fault(
        name="irte-half-written",
        imitates="a route written in halves, one of them lost (shape of 6f1a4891a592)",
        seed=Patch(
            instruction(
                r"mov qword ptr \[\w+\], \w+", within="modify_irte", behind="_raw_spin_lock_irqsave"
            ),
            skip,
        ),
        rows=("B2", "B3", "B4"),
        tests=("test_allocation.py", "test_affinity.py"),
    ),
    Fault(
        name="irte-without-source-id",
        imitates="wrong source id for a device (shape)",
        seed=Patch(instruction(r"mov word ptr \[\w+ \+ 0x(18|20)\], \w+", within=PREPARE), skip),
        rows=("B2",),
        tests=("test_allocation.py",),
    ),
    Fault(
        name="irte-verifies-no-source",
        imitates="an IRTE that admits every sender (shape of a wrong source id)",
        seed=Patch(instruction(r"mov byte ptr \[\w+ \+ 0x(1a|22)\], \w+", within=PREPARE), skip),
        rows=("B2",),
        tests=("test_allocation.py",),
    ),
    Fault(
        name="irte-physical-destination",
        imitates="a logical destination in an IRTE of physical mode (shape)",
        seed=Patch(
            # apic->dest_mode_logical, a bit that is moved to where the IRTE has it.
            instruction(
                r"and \w+, [14]",
                within=PREPARE,
                behind=r"movzx \w+, byte ptr \[\w+ \+ 0x[56]\w\]",
            ),
            immediate(0),
        ),
        rows=("G4", "B8"),
        tests=("test_live_entries.py", "test_audit.py"),
    ),
    Fault(
        name="irte-level-triggered",
        imitates="an IRTE with fields of another kind of interrupt left in it (2454823e97a6)",
        seed=Patch(
            instruction(r"or byte ptr \[\w+ \+ 0x1[08]\], 8", within=PREPARE), immediate(0x18)
        ),
        rows=("B8",),
        tests=("test_audit.py",),
    ),
    Fault(
        name="irte-without-redirection-hint",
        imitates="an IRTE with fields of another kind of interrupt left in it (2454823e97a6)",
        seed=Patch(instruction(r"or byte ptr \[\w+ \+ 0x1[08]\], 8", within=PREPARE), immediate(0)),
        rows=("G4",),
        tests=("test_live_entries.py",),
    ),
    Fault(
        name="irte-with-faults-disabled",
        imitates="an IRTE with fields of another kind of interrupt left in it (2454823e97a6)",
        seed=Patch(
            # The redirection hint, which is right, and FPD.
            instruction(r"or byte ptr \[\w+ \+ 0x1[08]\], 8", within=PREPARE),
            immediate(0x0A),
        ),
        rows=("G4",),
        tests=("test_live_entries.py",),
    ),
    Fault(
        name="irte-left-in-posted-format",
        imitates="an IRTE left posted after its route has changed (2454823e97a6, 9bcac97dc42d)",
        # IM (bit 15), in what the entry is cleared to before its fields are set.
        seed=Patch(
            instruction(r"mov qword ptr \[\w+ \+ 0x1[08]\], 0", within=PREPARE), immediate(0x8000)
        ),
        rows=("G4", "B8"),
        tests=("test_live_entries.py", "test_audit.py"),
    ),
    Fault(
        name="irte-with-reserved-bits",
        imitates="a field of an IRTE shifted to the wrong place (shape)",
        seed=Patch(instruction(r"shl \w+, 2", within=PREPARE), immediate(4)),
        rows=("G4", "B8"),
        tests=("test_live_entries.py", "test_audit.py"),
    ),
    Fault(
        name="released-irte-stays-present",
        imitates="teardown without deactivation (dbbc93576e03)",
        seed=Patch(entry_of("intel_irq_remapping_deactivate"), skip),
        rows=("B8",),  # it is gone with its interrupt: a teardown leaves none
        tests=("test_audit.py",),
    ),
    Fault(
        name="freed-irte-is-not-given-back",
        imitates="IRTEs leak at teardown (4c457e8cb75e)",
        seed=Patch(call_of("__bitmap_clear", "bitmap_release_region", within=FREE), skip),
        rows=("B6",),
        tests=(
            "test_teardown.py::test_a_teardown_under_load_reaches_no_handler_that_is_gone",
            "test_teardown.py::test_thousands_of_cycles_leave_no_irte_no_number_no_vector_and_no_memory",
        ),
    ),
    Fault(
        name="block-without-subhandles",
        imitates="not every message of a multi-message MSI has its own IRTE (b4b77778ecc5)",
        seed=Patch(instruction(r"mov word ptr \[\w+ \+ 0xa\], r\w+w", within=PREPARE), skip),
        rows=("A1",),
        tests=("test_msi.py",),
    ),
    Fault(
        name="message-of-the-neighbour",
        imitates="IRTEs of a device are reused too early: two messages name one (a2bad844a67b)",
        seed=Patch(instruction(r"and \w+, 0xfffe0", within=PREPARE), immediate(0xFFFC0)),
        rows=("A2", "B8"),
        tests=("test_msix.py",),
    ),
    Fault(
        name="moved-irte-is-not-invalidated",
        imitates="no invalidation of the interrupt entry cache after a change (shape)",
        seed=Patch(call_of("qi_submit_sync", within="modify_irte"), answer(0)),
        rows=("G1",),
        tests=("test_invalidation.py",),
    ),
    Fault(
        name="freed-irte-is-not-invalidated",
        imitates="no invalidation of the interrupt entry cache after a free (shape)",
        # An entry that was deactivated is not present any more, and was invalidated then.
        seed=Together(
            (
                Patch(entry_of("intel_irq_remapping_deactivate"), skip),
                Patch(call_of("qi_submit_sync", within=FREE), answer(0)),
            )
        ),
        rows=("G1",),
        tests=("test_invalidation.py",),
    ),
    Fault(
        name="another-irte-is-invalidated",
        imitates="the interrupt entry cache is invalidated at another index (shape)",
        seed=Patch(instruction(r"shl \w+, 0x20", within="modify_irte"), immediate(0x21)),
        rows=("G1",),
        tests=("test_invalidation.py",),
    ),
    Fault(
        name="invalidation-is-not-waited-for",
        imitates="an invalidation that is queued, and taken for done (shape)",
        # QEMU has carried out the whole queue when the write of its tail returns: a wait descriptor
        # that nobody looks at has completed all the same. So it asks for no status either, and is a
        # fence alone (FN instead of SW: VT-d, "Invalidation Wait Descriptor"); the status says
        # "done" from the start.
        seed=Together(
            (
                Patch(
                    instruction(r"movabs \w+, 0x200000025", within="qi_submit_sync"),
                    immediate(0x2_0000_0045),
                ),
                Patch(
                    instruction(r"mov dword ptr \[\w+ \+ \w+\*4\], 1", within="qi_submit_sync"),
                    immediate(2),
                ),
            )
        ),
        rows=("G1",),
        tests=("test_invalidation.py",),
    ),
)
