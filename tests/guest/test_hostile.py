"""A guest that writes nonsense to the device: answered, counted, and nothing falls over."""

from __future__ import annotations

import random

import pytest

from harness.devices.ledger import Event, Fate
from harness.guest.kernel_log import Kind
from harness.host.deadline import Deadline, wait_until
from harness.spec import ims_function as regs
from harness.spec.ims_function import Register, Status
from harness.spec.interrupt import Store
from harness.spec.pci import Command
from harness.spec.vtd import FaultReason
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import deliver, write_command

ENABLED = Command(memory_space=1, bus_master=1)
"""As a driver has it: unbinding has cleared the latter."""

ANSWERED_BY_THE_MODEL = (regs.BAR_CONTROL, regs.BAR_IMS)

LOW_PAGE = 0x1000
"""Memory that Linux leaves alone: all below 1 MiB (arch/x86/realmode/init.c)."""


@pytest.fixture
def bars(vm: Vm, ims_device: PluggedFunction) -> dict[int, int]:
    """Return BAR to guest physical address, with the driver out of the way."""
    ims_device.unbind()
    device = f"/sys/bus/pci/devices/{ims_device.slot}"
    vm.ssh.run(f"echo 1 >{device}/enable")
    lines = vm.ssh.run(f"cat {device}/resource").stdout.splitlines()
    starts = [int(line.split()[0], 16) for line in lines[:6]]
    return {bar: start for bar, start in enumerate(starts) if start}


@pytest.fixture(autouse=True)
def driver_comes_back(ims_device: PluggedFunction, bars: dict[int, int]) -> object:
    yield
    ims_device.bind()
    ims_device.set_up(Store.IMS, 2)
    deliver(ims_device, Store.IMS, 0, 1)


def raise_message(
    vm: Vm, plugged: PluggedFunction, bars: dict[int, int], address: int, data: int
) -> Event:
    """Have the guest store a message, raise it, and return its event when QEMU has judged it."""
    slot = bars[regs.BAR_IMS] + 16 * 7
    vm.ssh.run(
        f"devmem {slot:#x} 64 {address:#x} && devmem {slot + 8:#x} 32 {data:#x}"
        f" && devmem {slot + 12:#x} 32 0 && devmem {slot + 12:#x} 32"
    )
    model = plugged.model
    event = model.open(Store.IMS, 7)
    if verdict := model.send(event):
        wait_until(verdict.done, Deadline(5, "QEMU's verdict"))
    return event


@pytest.mark.kernel("debian-6.12")
@pytest.mark.leaves("audit")  # entries with nonsense
def test_accesses_of_every_size_and_offset_are_counted_and_survived(
    vm: Vm, ims_device: PluggedFunction, bars: dict[int, int]
) -> None:
    before = ims_device.model.refusals.count
    source = random.Random(1)  # the same nonsense each time
    commands = []
    for _ in range(120):
        width = source.choice([8, 16, 32, 64])
        # Aligned: the guest's own tool refuses the rest.
        bar = source.choice(ANSWERED_BY_THE_MODEL)
        offset = source.randrange(0, 0x8000, width // 8)
        value = "" if source.random() < 0.3 else f" {source.getrandbits(width)}"
        commands.append(f"devmem {bars[bar] + offset:#x} {width}{value}")
    result = vm.ssh.run(" && ".join(commands) + " && echo survived")
    assert result.stdout.endswith("survived\n")
    assert ims_device.model.refusals.count > before
    refused = vm.ssh.run(f"devmem {bars[regs.BAR_CONTROL] + Register.REFUSED:#x} 32").stdout
    assert int(refused, 16) == ims_device.model.refusals.count


def test_a_work_queue_over_nothing_stops_with_an_error(
    vm: Vm, ims_device: PluggedFunction, bars: dict[int, int]
) -> None:
    write_command(ims_device, ENABLED)
    base = bars[regs.BAR_CONTROL]

    def poke(register: Register, value: int) -> str:
        return f"devmem {base + register:#x} 32 {value:#x}"

    vm.ssh.run(
        " && ".join(
            [
                poke(Register.WQ_SIZE, 4),
                poke(Register.WQ_BASE_LO, 0xFFFF_F000),
                poke(Register.WQ_BASE_HI, 0x7FFF_FFFF),
                poke(Register.CONTROL, 1),
                poke(Register.WQ_TAIL, 3),
            ]
        )
    )
    queue = ims_device.model.queue
    wait_until(lambda: queue.error, Deadline(5, "the queue's end"))
    assert "descriptor 0 at 0x7ffffffffffff000" in queue.error
    status = vm.ssh.run(f"devmem {base + Register.STATUS:#x} 32").stdout
    assert Status.unpack(int(status, 16)) == Status(wq_error=1)
    if vm.spec.iommu and vm.spec.iommu.dma_translation:
        logged = Deadline(5, "the DMA fault in the kernel's log")
        wait_until(lambda: bool(vm.kernel_findings()), logged)
        assert {finding.kind for finding in vm.kernel_findings()} == {Kind.DMAR_FAULT}
        vm.host.kernel_log(clear=True)


@pytest.mark.leaves("audit")  # the entry that it went through
def test_a_message_that_is_none_reaches_no_cpu(
    vm: Vm, ims_device: PluggedFunction, bars: dict[int, int]
) -> None:
    write_command(ims_device, ENABLED)

    # Nobody has this entry, and so the unit records it.
    assert "EFAULT" in raise_message(vm, ims_device, bars, 0xFEE0_1FF8, 0x31).reason
    vm.expect_fault(FaultReason.ENTRY_NOT_PRESENT, 0x130, Deadline(5, "the record of the fault"))
    assert "0x25" in raise_message(vm, ims_device, bars, 0xFEE0_0000, 0x31).reason


@pytest.mark.leaves("audit", "events")  # the entry that it went through, and what went there
def test_a_message_to_memory_is_a_write_like_any_other(
    vm: Vm, ims_device: PluggedFunction, bars: dict[int, int]
) -> None:
    write_command(ims_device, ENABLED)
    before = vm.machine.memory.read(LOW_PAGE, 4)
    event = raise_message(vm, ims_device, bars, LOW_PAGE, 0x31)
    after = int.from_bytes(vm.machine.memory.read(LOW_PAGE, 4), "little")
    if vm.spec.iommu and vm.spec.iommu.dma_translation:
        assert event.fate is Fate.BLOCKED
        assert after != 0x31
        fault = Deadline(5, "the record of the DMA fault")
        vm.expect_fault(FaultReason.NO_WRITE_PERMISSION, None, fault)
    else:
        assert after == 0x31
        vm.machine.memory.write(LOW_PAGE, before)
