"""Faults of the vector domain: arch/x86/kernel/apic/vector.c."""

from __future__ import annotations

from typing import Final

from harness.faults.change import skip
from harness.faults.fault import Fault
from harness.faults.place import call_of
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
)
