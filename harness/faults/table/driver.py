"""Faults of the guest module: guests/module."""

from __future__ import annotations

from typing import Final

from harness.faults.change import always, answer, skip
from harness.faults.fault import Fault
from harness.faults.place import call_of, entry_of, instruction
from harness.faults.seed import Patch

DRIVER_FAULTS: Final = (
    Fault(
        name="ims-mask-is-not-written",
        imitates="an entry left unmasked (83dbf898a2d4)",
        seed=Patch(entry_of("imstest_ims_mask"), skip),
        rows=("A4",),
        tests=("test_ims.py",),
    ),
    Fault(
        name="ims-mask-is-not-read-back",
        imitates="a mask that is still on its way when disable returns (b9255a7cb517)",
        seed=Patch(call_of("ioread32", within="imstest_ims_mask"), skip),
        rows=("G2",),
        tests=("test_store_order.py",),
    ),
    Fault(
        name="ims-unmask-is-not-written",
        imitates="an entry left masked (83dbf898a2d4)",
        seed=Patch(entry_of("imstest_ims_unmask"), skip),
        rows=("A4",),
        tests=("test_ims.py",),
    ),
    Fault(
        name="ims-message-is-not-written",
        imitates="a failed map that returns without setting the message (shape, Hyper-V)",
        seed=Patch(entry_of("own_domain_activate"), answer(0)),
        rows=("A4",),
        tests=("test_ims.py",),
    ),
    Fault(
        name="ims-message-outlives-its-interrupt",
        imitates="teardown without deactivation (dbbc93576e03)",
        seed=Patch(entry_of("own_domain_deactivate"), skip),
        rows=("A4", "B6"),
        tests=("test_ims.py", "test_teardown.py"),
    ),
    Fault(
        name="ims-interrupts-leak-at-teardown",
        imitates="interrupts leak at teardown (4c457e8cb75e)",
        seed=Patch(call_of("irq_dispose_mapping", within="imstest_ims_domain_free"), skip),
        rows=("B6",),
        tests=(
            "test_teardown.py::test_a_teardown_under_load_reaches_no_handler_that_is_gone",
            "test_teardown.py::test_thousands_of_cycles_leave_no_irte_no_number_no_vector_and_no_memory",
        ),
    ),
    Fault(
        name="call-for-a-pair-is-not-made",
        imitates="a failed map that returns without setting the message (shape, Hyper-V)",
        seed=Patch(call_of("virte_call", within=("batch_map", "virte_blocks_map")), answer(0)),
        rows=("D2",),
        tests=("test_virte.py",),
    ),
    Fault(
        name="call-for-a-move-is-not-made",
        imitates="affinity set after start-up is lost (ff363f480e59)",
        seed=Patch(call_of("virte_block_route", within="virte_set_affinity"), answer(0)),
        rows=("D3",),
        tests=("test_virte.py", "test_virte_failures.py"),
    ),
    Fault(
        name="handles-are-not-given-back",
        imitates="interrupts leak at teardown (4c457e8cb75e)",
        seed=Patch(call_of("virte_call", within="batch_unmap"), answer(0)),
        rows=("D2", "D4"),
        tests=("test_virte.py",),
    ),
    Fault(
        name="released-handle-keeps-its-route",
        imitates="teardown without deactivation (dbbc93576e03)",
        seed=Patch(entry_of("virte_domain_deactivate"), skip),
        rows=("D2", "D4"),
        tests=("test_virte.py",),
    ),
    Fault(
        name="refused-move-is-taken-for-done",
        imitates="a retarget whose failure is ignored (shape)",
        seed=Patch(
            instruction(r"je \w+", within="virte_set_affinity", behind="virte_block_route"), always
        ),
        rows=("D3",),
        tests=("test_virte_failures.py",),
    ),
    Fault(
        name="failed-batch-is-not-given-back",
        imitates="the partial free of a range (shape)",
        seed=Patch(call_of("virte_blocks_drop", within="virte_domain_alloc"), skip),
        rows=("D2", "D5"),
        tests=("test_virte_batch.py",),
    ),
    Fault(
        name="storm-is-not-heeded",
        imitates="a quench that is never revived (shape)",
        seed=Patch(entry_of("virte_storm_notice"), skip),
        rows=("D10",),
        tests=("test_virte_storm.py",),
    ),
)
