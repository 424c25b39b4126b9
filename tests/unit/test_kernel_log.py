"""What kernels log when something goes wrong: lines of stock 6.1, 6.12 and 7.2 guests."""

from __future__ import annotations

import pytest

from harness.guest.kernel_log import DmarFault, Kind, alarm, complaints

# fmt: off
LINES = [
    (Kind.PANIC, "[    3.623974] Kernel panic - not syncing: sysrq triggered crash"),
    (Kind.OOPS, "[    8.380481] BUG: kernel NULL pointer dereference, address: 0000000000000008"),
    (Kind.OOPS, "[    8.380481] BUG: unable to handle page fault for address: ffffc90000100000"),
    (Kind.OOPS, "[    8.388364] Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI"),
    (Kind.OOPS, "[    8.388364] Oops: 0002 [#1] PREEMPT SMP NOPTI"),
    (Kind.OOPS, "[    4.181236] general protection fault, probably for non-canonical"),
    (Kind.OOPS, "[    5.331981] Oops: general protection fault, probably for non-canonical"),
    (Kind.BUG, "[    3.819154] kernel BUG at /imsh/crash.c:11!"),
    (Kind.BUG, "[    4.281466] BUG: scheduling while atomic: insmod/109/0x00000002"),
    (Kind.SOFT_LOCKUP, "[   10.3] watchdog: BUG: soft lockup - CPU#1 stuck for 6s! [insmod:108]"),
    (Kind.HARD_LOCKUP, "[   10.3] watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 1"),
    (Kind.RCU_STALL, "[   26.206465] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:"),
    (Kind.RCU_STALL, "[   26.206465] rcu: INFO: rcu_preempt self-detected stall on CPU"),
    (Kind.RCU_STALL, "[   26.2] rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: {"),
    (Kind.HUNG_TASK, "[   10.225238] INFO: task insmod:109 blocked for more than 2 seconds."),
    (Kind.WARNING, "[    5.7] WARNING: CPU: 0 PID: 109 at kernel/irq/chip.c:8 irq_startup+0x20"),
    (Kind.WARNING, "[    5.7] WARNING: crash.c:8 at crash_init+0x24/0xff0 [crash], CPU#0: insmod"),
    (Kind.WARNING, "[    5.7] WARNING: possible circular locking dependency detected"),
    (Kind.WARNING, "[    5.7] [ BUG: Invalid wait context ]"),
    (Kind.WARNING, "[    5.7] INFO: trying to register non-static key."),
    (Kind.LEAK, "[   65.7] kmemleak: 3 new suspected memory leaks (see /sys/kernel)"),
    (Kind.SANITIZER, "[    5.7] BUG: KASAN: slab-use-after-free in msi_domain_free+0x1/0x2"),
    (Kind.SANITIZER, "[    5.7] UBSAN: array-index-out-of-bounds in drivers/pci/msi/msi.c:1:2"),
    (Kind.UNHANDLED_INTERRUPT, '[    5.7] irq 24: nobody cared (try booting with the "irqpoll")'),
    (Kind.UNHANDLED_INTERRUPT, "[    5.7] __common_interrupt: 1.34 No irq handler for vector"),
    (Kind.DMAR_FAULT, "[    5.7] DMAR: [INTR-REMAP] Request device [00:1f.2] fault index 0x0 "
                      "[fault reason 0x26] Blocked an interrupt request due to source-id"),
]
# fmt: on

HARMLESS = [
    "[    0.287000] DMAR-IR: Enabled IRQ remapping in x2apic mode",
    "[    0.069000] DMAR: IOMMU batching disallowed due to virtualization",
    "[    2.000000] RAS: Correctable Errors collector initialized.",
    "[    9.684616] crash: module verification failed: signature and/or required key missing",
    "[    1.000000] kernel: debug: no BUG here",
    "imsh-init: ready 0123456789abcdef",
    "",
]

WARN_WITH_TEXT = """\
[    9.684154] crash: loading out-of-tree module taints kernel.
[    9.734842] ------------[ cut here ]------------
[    9.735355] something 5
[    9.735482] WARNING: crash.c:9 at crash_init+0x40/0xff0 [crash], CPU#0: insmod/123
[    9.742184] Call Trace:
[    9.742806]  <TASK>
[    9.743388]  do_one_initcall+0x5c/0x300
[    9.760100]  </TASK>
[    9.760479] ---[ end trace 0000000000000000 ]---
[    9.800000] after
""".splitlines()

OOPS = """\
[    8.317673] crash: loading out-of-tree module taints kernel.
[    8.380481] BUG: kernel NULL pointer dereference, address: 0000000000000008
[    8.388364] Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI
[    8.392404] RIP: 0010:crash_init+0x63/0xff0 [crash]
[    8.440000] Call Trace:
[    8.440100]  <TASK>
[    8.440200]  do_one_initcall+0x5c/0x300
[    8.440300]  </TASK>
[    8.440400] Modules linked in: crash(OE+) virtio_net net_failover failover
[    8.440500] CR2: 0000000000000008
[    8.444814] ---[ end trace 0000000000000000 ]---
[    8.459247] note: insmod[154] exited with irqs disabled
""".splitlines()


@pytest.mark.parametrize(("kind", "line"), LINES)
def test_each_kind_is_known_by_its_line(kind: Kind, line: str) -> None:
    assert [finding.kind for finding in complaints(line)] == [kind]


@pytest.mark.parametrize(("kind", "line"), LINES)
def test_a_kernel_without_printk_time_says_the_same(kind: Kind, line: str) -> None:
    timeless = line.partition("] ")[2].lstrip()
    for text in (timeless, f"<3>{timeless}", f"<3>[  T109] {timeless}"):
        assert [finding.kind for finding in complaints(text)] == [kind], text


@pytest.mark.parametrize("line", HARMLESS)
def test_ordinary_lines_are_no_findings(line: str) -> None:
    assert complaints(line) == []
    assert alarm(line) is None


def test_a_line_may_carry_a_level_and_a_thread() -> None:
    assert complaints("<4>[    5.7][  T109] WARNING: x at y")[0].kind is Kind.WARNING


def test_what_no_guest_survives_is_an_alarm() -> None:
    alarms = {alarm(line) for _, line in LINES} - {None}
    assert alarms == {
        "panic",
        "oops",
        "BUG",
        "soft lockup",
        "hard lockup",
        "RCU stall",
        "hung task",
    }


def test_a_report_is_whole_from_its_cut_line_to_its_end() -> None:
    (finding,) = complaints("\n".join(WARN_WITH_TEXT))
    assert list(finding.lines) == WARN_WITH_TEXT[1:-1]
    assert finding.line_number == 2


def test_an_oops_is_one_finding_up_to_the_marker_behind_its_trace() -> None:
    (finding,) = complaints("\n".join(OOPS))
    assert list(finding.lines) == OOPS[1:-1]


def test_a_title_is_the_line_that_tells() -> None:
    (finding,) = complaints("\n".join(WARN_WITH_TEXT))
    assert str(finding) == (
        "warning (line 2): WARNING: crash.c:9 at crash_init+0x40/0xff0 [crash], CPU#0: insmod/123"
    )


def test_a_report_without_an_end_stops_at_the_line_that_names_it() -> None:
    (finding,) = complaints("\n".join(WARN_WITH_TEXT[:6]))
    assert list(finding.lines) == WARN_WITH_TEXT[1:4]


def test_a_panic_after_an_oops_is_a_finding_of_its_own() -> None:
    panic = "[    8.5] Kernel panic - not syncing: Fatal exception"
    kinds = [finding.kind for finding in complaints("\n".join([*OOPS, panic]))]
    assert kinds == [Kind.OOPS, Kind.PANIC]


def test_a_panic_inside_another_report_is_not_swallowed() -> None:
    panic = LINES[0][1]
    kinds = [f.kind for f in complaints("\n".join([*OOPS[:4], panic, *OOPS[4:]]))]
    assert kinds == [Kind.OOPS, Kind.PANIC]


def test_two_warnings_are_two_findings() -> None:
    found = complaints("\n".join([*WARN_WITH_TEXT, *WARN_WITH_TEXT]))
    assert [finding.line_number for finding in found] == [2, 12]


def test_a_blocked_interrupt_is_decoded() -> None:
    # drivers/iommu/intel/dmar.c, dmar_fault_do_one(): the form since v5.17.
    line = (
        "[    1.5] DMAR: [INTR-REMAP] Request device [ff:1f.7] fault index 0x12 "
        "[fault reason 0x22] Present field in the IRTE entry is clear"
    )
    (finding,) = complaints(line)
    assert finding.fault == DmarFault(
        request="INTR-REMAP",
        device="ff:1f.7",
        index=0x12,
        address=None,
        reason=0x22,
        text="Present field in the IRTE entry is clear",
    )
    assert finding.fault.is_interrupt


@pytest.mark.parametrize("request_name", ["DMA Read NO_PASID", "DMA Write PASID 0x1"])
def test_blocked_dma_is_decoded(request_name: str) -> None:
    line = (
        f"[    1.5] DMAR: [{request_name}] Request device [01:00.0] fault addr 0xffff0000 "
        "[fault reason 0x06] PTE Read access is not set"
    )
    fault = complaints(line)[0].fault
    assert fault is not None
    assert (fault.request, fault.address, fault.reason) == (request_name, 0xFFFF0000, 6)
    assert not fault.is_interrupt


def test_a_fault_inside_another_report_is_not_swallowed() -> None:
    fault = LINES[-1][1]
    lines = [*WARN_WITH_TEXT[:4], fault, *WARN_WITH_TEXT[4:]]
    kinds = [finding.kind for finding in complaints("\n".join(lines))]
    assert kinds == [Kind.WARNING, Kind.DMAR_FAULT]
