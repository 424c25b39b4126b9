"""Faults of the vector domain, of CPUs that go and of the interrupt core.

They are in arch/x86/kernel/apic, in irq.c beside it, and in kernel/irq.
"""

from __future__ import annotations

from typing import Final

from harness.faults.change import skip
from harness.faults.fault import Fault
from harness.faults.place import call_of, instruction
from harness.faults.seed import Patch

VECTOR_FAULTS: Final = (
    Fault(
        name="vectors-leak-at-teardown",
        imitates="vectors leak (shape of a6c11c0a5235)",
        seed=Patch(
            call_of("irq_matrix_free", within=("clear_irq_vector", "x86_vector_free_irqs")), skip
        ),
        rows=("B3", "B6"),
        tests=(
            "test_teardown.py::test_a_teardown_under_load_reaches_no_handler_that_is_gone",
            "test_teardown.py::test_thousands_of_cycles_leave_no_irte_no_number_no_vector_and_no_memory",
        ),
    ),
    Fault(
        name="vectors-leak-at-moves",
        imitates="vectors leak when an interrupt leaves a CPU (a6c11c0a5235)",
        seed=Patch(
            call_of(
                "irq_matrix_free",
                within="free_moved_vector",
            ),
            skip,
        ),
        rows=("B6",),
        tests=("test_teardown.py::test_more_moves_than_there_are_vectors_leave_none_taken",),
    ),
    Fault(
        name="interrupt-is-not-masked-at-shutdown",
        imitates="vectors left unmasked (83dbf898a2d4), here by a teardown",
        seed=Patch(
            # Of a function, or where that is inlined of what the chip has for it.
            call_of(
                "__irq_disable",
                *(f"__x86_indirect_thunk_r{register}x" for register in "acd"),
                within=("irq_shutdown", "irq_shutdown_and_deactivate"),
            ),
            skip,
        ),
        rows=("B6",),
        tests=("test_teardown.py::test_a_teardown_under_load_reaches_no_handler_that_is_gone",),
    ),
    Fault(
        name="cpu-takes-its-interrupts-along",
        imitates="interrupts of a CPU that goes offline are not handed on (shape of a6c11c0a5235)",
        seed=Patch(call_of("irq_migrate_all_off_this_cpu", within="fixup_irqs"), skip),
        rows=("B3",),
        tests=(
            "test_activation.py::test_a_cpu_that_goes_offline_hands_every_interrupt_on_and_none_is_lost",
        ),
    ),
    Fault(
        name="move-without-remapping-is-not-written",
        imitates="affinity set after start-up is lost: the message stays (ff363f480e59)",
        seed=Patch(
            # irq_msi_update_msg(): composed, and written by the chip of the store.
            instruction(r"call .*", within="msi_set_affinity", behind="__irq_msi_compose_msg"),
            skip,
        ),
        rows=("B5",),
        tests=(
            "test_no_remapping.py::test_a_move_rewrites_the_message_and_the_next_interrupt_lands_on_the_new_cpu",
        ),
        machine="no-iommu",
    ),
)
