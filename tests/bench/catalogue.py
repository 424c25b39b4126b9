"""Every metric, a row each. A new one is a function from a Bench to a Summary, and a row here."""

from __future__ import annotations

from typing import Final

from harness.spec.interrupt import Store
from tests.bench.bench import Bench
from tests.bench.boot import boot_to_ssh_ratio, boot_to_ssh_s, raw_boot_s
from tests.bench.faults import faults_caught_percent
from tests.bench.fresh import (
    fresh_vm_s,
    fresh_vm_speedup,
    fresh_vm_speedup_raw,
    fresh_vm_ssh_s,
    fresh_vms_per_min,
    private_mb_per_vm,
)
from tests.bench.hostile import hostile_messages
from tests.bench.hypercall import cost
from tests.bench.interrupts import irqs_per_second
from tests.bench.metrics import Goal, Metric, Summary
from tests.bench.suite import core_s_per_guest_test, suite_s
from tests.bench.trap_cost import trap_cost
from tests.bench.tree import tree_rebuild_verdict_s, tree_verdict_over_build_s
from tests.bench.validate import validate_overhead_ratio
from tests.bench.vfio_user_bench import echo_round_trips, posted_writes_per_second, read_round_trips

VFIO_USER_ROUNDS: Final = 5
READS: Final = 10_000
WRITES: Final = 50_000


def round_trips(bench: Bench) -> tuple[list[float], list[float]]:
    """Return the microseconds of vfio-user reads and of bare round trips, made in turn."""
    reads: list[float] = []
    echoes: list[float] = []
    for _ in bench.counted("vfio-user reads", VFIO_USER_ROUNDS):
        reads += (1e6 * seconds for seconds in read_round_trips(READS))
        echoes += (1e6 * seconds for seconds in echo_round_trips(READS))
    return reads, echoes


def vfio_user_read_us(bench: Bench) -> Summary:
    """Return the microseconds that a read of 4 bytes takes, a sample a read."""
    return Summary.of(bench.shared(round_trips)[0], percentiles=[99])


def echo_us(bench: Bench) -> Summary:
    """Return the microseconds that as many bytes take there and back, a sample a round trip."""
    return Summary.of(bench.shared(round_trips)[1], percentiles=[99])


def vfio_user_posted_writes_per_s(bench: Bench) -> Summary:
    """Return the writes of 4 bytes without reply that are carried out in a second."""
    rounds = bench.counted("vfio-user writes", VFIO_USER_ROUNDS)
    return Summary.of([posted_writes_per_second(WRITES) for _ in rounds])


METRICS: Final = (
    Metric(
        name="boot_to_ssh_ratio",
        unit="x",
        measure=boot_to_ssh_ratio,
        against="raw_boot_s, in turn",
        goal=Goal(1.35),
    ),
    Metric(
        name="boot_to_ssh_s",
        unit="s",
        measure=boot_to_ssh_s,
        against="from nothing to the first SSH command answered",
    ),
    Metric(
        name="raw_boot_s",
        unit="s",
        measure=raw_boot_s,
        against="plain QEMU, same kernel and machine, to init's first line",
    ),
    Metric(
        name="vfio_user_read_us",
        unit="us",
        measure=vfio_user_read_us,
        against="echo_us, in turn; two processes, in-tree client",
        goal=Goal(40),
    ),
    Metric(
        name="echo_us",
        unit="us",
        measure=echo_us,
        against="as many bytes there and back between two processes, nothing done to them",
    ),
    Metric(
        name="vfio_user_posted_writes_per_s",
        unit="1/s",
        measure=vfio_user_posted_writes_per_s,
        against="two processes, in-tree client",
        goal=Goal(60_000, at_least=True),
    ),
    Metric(
        name="hostile_messages",
        unit="messages",
        measure=hostile_messages,
        against="a hostile client from a seed; the server is then as it was",
        goal=Goal(1_000_000, at_least=True),
    ),
    *(
        Metric(
            name=f"{store.name.lower()}_irqs_per_s{suffix}",
            unit="1/s",
            measure=irqs_per_second(store, in_flight),
            against=f"{other.name.lower()}_irqs_per_s{suffix}, in turn in one guest; {how}",
        )
        for in_flight, suffix, how in ((1, "", "one in flight"), (4, "_4", "one on each of 4"))
        for store, other in ((Store.IMS, Store.MSIX), (Store.MSIX, Store.IMS))
    ),
    Metric(
        name="batch_map_2048_s",
        unit="s",
        measure=cost(lambda costs: costs.batch_seconds),
        against="2048 IMS entries allocated over the call, by the guest's clock",
        goal=Goal(0.3),
    ),
    Metric(
        name="map_traps_per_64",
        unit="accesses",
        measure=cost(lambda costs: costs.map_traps),
        against="what of that is trapped, for each 64 entries",
        goal=Goal(4),
    ),
    Metric(
        name="retarget_traps",
        unit="accesses",
        measure=cost(lambda costs: costs.retarget_traps),
        against="what is trapped of a move over the call",
        goal=Goal(2),
    ),
    Metric(
        name="hypercall_irq_rate_ratio",
        unit="x",
        measure=cost(lambda costs: costs.rate_ratios),
        against="IMS interrupts over the call, by remapped ones, in turn in one guest",
        goal=Goal(0.9, at_least=True),
    ),
    Metric(
        name="trap_cost",
        unit="x",
        measure=trap_cost,
        against="accesses trapped: MSI-X over the call, 2048 interrupts' life; all in the JSON",
    ),
    Metric(
        name="fresh_vm_s",
        unit="s",
        measure=fresh_vm_s,
        against="from nothing to a plugged device whose driver answers",
        goal=Goal(0.5),
    ),
    Metric(
        name="fresh_vm_ssh_s",
        unit="s",
        measure=fresh_vm_ssh_s,
        against="from nothing to an open SSH session",
        goal=Goal(0.9),
    ),
    Metric(
        name="fresh_vm_speedup",
        unit="x",
        measure=fresh_vm_speedup,
        against="a cold boot to the same answer, in turn",
        goal=Goal(12, at_least=True),
    ),
    Metric(
        name="fresh_vm_speedup_raw",
        unit="x",
        measure=fresh_vm_speedup_raw,
        against="a raw boot to init's first line, in turn",
    ),
    Metric(
        name="fresh_vms_per_min",
        unit="1/min",
        measure=fresh_vms_per_min,
        against="one worker on each CPU, device plugged, VM ended",
    ),
    Metric(
        name="private_mb_per_vm",
        unit="MB",
        measure=private_mb_per_vm,
        against="idle VMs of one snapshot, side by side",
        goal=Goal(90),
    ),
    Metric(
        name="faults_caught_percent",
        unit="%",
        measure=faults_caught_percent,
        against="seeded faults that a kernel has a place for, by a row that should; every kernel",
        goal=Goal(95, at_least=True),
    ),
    Metric(
        name="tree_rebuild_verdict_s",
        unit="s",
        measure=tree_rebuild_verdict_s,
        against="imsh run --tree after a change of one line of irq_remapping.c",
        goal=Goal(90),
        of_tree=True,
    ),
    Metric(
        name="tree_verdict_over_build_s",
        unit="s",
        measure=tree_verdict_over_build_s,
        against="what of that is not the kernel's build",
        goal=Goal(15),
        of_tree=True,
    ),
    Metric(
        name="core_s_per_guest_test",
        unit="s",
        measure=core_s_per_guest_test,
        against="the same of another checkout, in turn; QEMU's processor time included",
    ),
    Metric(
        name="validate_overhead_ratio",
        unit="",
        measure=validate_overhead_ratio,
        against="the same tests run by hand, on one kernel after the other",
        goal=Goal(1.2),
    ),
    Metric(
        name="suite_s",
        unit="s",
        measure=suite_s,
        against="every test on every kernel, one worker on each CPU",
        goal=Goal(300),
    ),
)
