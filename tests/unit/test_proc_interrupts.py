"""/proc/interrupts as three stock kernels print it, shortened."""

from __future__ import annotations

import pytest

from harness.errors import HarnessError
from harness.guest.interrupts import parse_interrupts

V6_1 = """\
           CPU0       CPU1       
  0:         81          0  IR-IO-APIC   2-edge      timer
  9:          0          0  IR-IO-APIC   9-fasteoi   acpi
 24:          0          0  DMAR-MSI   0-edge      dmar0
 25:          0          0  IR-PCI-MSI 49152-edge      PCIe PME, aerdrv
 27:          3         66  IR-PCI-MSI 524289-edge      virtio1-input.0
NMI:          0          0   Non-maskable interrupts
LOC:        344        322   Local timer interrupts
ERR:          0
MIS:          7
PIN:          0          0   Posted-interrupt notification event
"""  # noqa: W291 - the kernel ends its header so

V6_12 = """\
           CPU0       CPU1       
  0:        100          0  IR-IO-APIC   2-edge      timer
 24:          0          0  IR-PCI-MSIX-0000:00:03.0   0-edge      PCIe PME, aerdrv
 26:          3         66  IR-PCI-MSIX-0000:01:00.0   1-edge      virtio1-input.0
LOC:        462        401   Local timer interrupts
ERR:          0
"""  # noqa: W291 - the kernel ends its header so

V7_2 = """\
            CPU0       CPU1       
   0:        101          0  IR-IO-APIC                  2-edge      timer
   9:          0          0  IR-IO-APIC                  9-fasteoi   acpi
  24:          0          0  IR-PCI-MSIX-0000:00:03.0    0-edge      PCIe PME, aerdrv, PCIe bwctrl
  26:          3         66  IR-PCI-MSIX-0000:01:00.0    1-edge      virtio1-input.0
 NMI:          0          0  Non-maskable interrupts
VPMI:          0          0  Perf Guest Mediated PMI
"""  # noqa: W291 - the kernel ends its header so


@pytest.mark.parametrize(
    ("text", "virq", "chip", "hwirq"),
    [
        (V6_1, 27, "IR-PCI-MSI", 524289),
        (V6_12, 26, "IR-PCI-MSIX-0000:01:00.0", 1),
        (V7_2, 26, "IR-PCI-MSIX-0000:01:00.0", 1),
    ],
    ids=["v6.1", "v6.12", "v7.2"],
)
def test_a_line_gives_counts_chip_number_flow_and_actions(
    text: str, virq: int, chip: str, hwirq: int
) -> None:
    line = parse_interrupts(text)[virq]
    assert line.virq == virq
    assert line.counts == {0: 3, 1: 66}
    assert line.total == 69
    assert (line.chip, line.hwirq, line.flow) == (chip, hwirq, "edge")
    assert line.actions == ("virtio1-input.0",)


@pytest.mark.parametrize("text", [V6_1, V6_12, V7_2], ids=["v6.1", "v6.12", "v7.2"])
def test_every_line_is_parsed(text: str) -> None:
    assert len(parse_interrupts(text).lines) == len(text.splitlines()) - 1


def test_shared_interrupts_name_every_action() -> None:
    line = parse_interrupts(V7_2)[24]
    assert line.actions == ("PCIe PME", "aerdrv", "PCIe bwctrl")
    assert parse_interrupts(V7_2).by_action("aerdrv") == [line]
    assert parse_interrupts(V7_2).by_action("absent") == []


def test_level_flow_is_told_from_edge() -> None:
    assert parse_interrupts(V6_1)[9].flow == "fasteoi"
    assert parse_interrupts(V7_2)[9].flow == "fasteoi"


def test_the_architecture_s_own_lines_have_a_description_and_no_number() -> None:
    local_timer = parse_interrupts(V6_1)["LOC"]
    assert (local_timer.virq, local_timer.chip) == (None, "")
    assert local_timer.description == "Local timer interrupts"
    assert parse_interrupts(V7_2)["VPMI"].description == "Perf Guest Mediated PMI"


def test_a_counter_of_the_whole_machine_belongs_to_no_cpu() -> None:
    assert parse_interrupts(V6_1)["MIS"].counts == {-1: 7}


def test_columns_are_named_by_the_header_when_a_cpu_is_offline() -> None:
    parsed = parse_interrupts("   CPU0   CPU2   \n 26:   5   6  IMS   3-edge   imstest\nERR: 0\n")
    assert parsed.cpus == (0, 2)
    assert parsed[26].counts == {0: 5, 2: 6}


def test_one_cpu_is_enough() -> None:
    parsed = parse_interrupts("   CPU0   \n 26:   5  IMS   3-edge   a\nLOC: 7  Local\nERR: 2\n")
    assert parsed[26].counts == {0: 5}
    assert parsed["LOC"].counts == {0: 7}
    assert parsed["ERR"].counts == {-1: 2}


def test_an_interrupt_without_handler_has_no_actions() -> None:
    line = parse_interrupts("   CPU0   \n 26:   5  IMS   3-edge\n")[26]
    assert (line.hwirq, line.flow, line.actions) == (3, "edge", ())


def test_the_difference_names_only_what_changed() -> None:
    before = parse_interrupts(V6_12)
    after = parse_interrupts(V6_12.replace("3         66", "3         68").replace("462", "500"))
    assert after.since(before) == {"26": {1: 2}, "LOC": {0: 38}}
    assert before.since(before) == {}


def test_the_difference_shows_interrupts_that_came_or_went() -> None:
    few = parse_interrupts(
        V6_12.replace(" 26:          3         66", " 40:          3         66")
    )
    assert few.since(parse_interrupts(V6_12)) == {"26": {0: -3, 1: -66}, "40": {0: 3, 1: 66}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage\n",
        V6_12 + "26 without a colon\n",
        V6_12 + " 30: 1\n",
        V6_12 + " 30: 1 x IMS 3-edge\n",
        V6_12 + " 30: 1 2\n",
    ],
)
def test_what_is_not_understood_is_refused_and_shown(text: str) -> None:
    with pytest.raises(HarnessError, match=r"header of CPUs|not understood"):
        parse_interrupts(text)
