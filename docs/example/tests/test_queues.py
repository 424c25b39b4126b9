"""What a driver with one control vector and many queues expects of its kernel."""

import pytest

from harness.host.deadline import Deadline
from harness.spec.interrupt import Store


@pytest.mark.device(msix_vectors=1, ims_mapped=True)
def test_queues_on_ims_need_no_trapped_access(ims_device):
    with ims_device.trapped() as traps:
        ims_device.set_up(Store.IMS, 32)
        for queue in range(32):
            ims_device.model.raise_and_wait(Store.IMS, queue, Deadline(5, f"queue {queue}"))
    assert traps[Store.IMS] == 0


def test_the_guest_sees_the_control_vector_and_the_queues(ims_device, ssh):
    ims_device.set_up(Store.MSIX, 1)
    ims_device.set_up(Store.IMS, 4)
    lines = ssh.run("grep -c imstest /proc/interrupts").stdout
    assert int(lines) == 5


@pytest.mark.cold_boot("nox2apic")
@pytest.mark.machine("remapping-only")
def test_a_kernel_told_to_stay_in_xapic_mode_does(vm, observer):
    assert not observer.unit().extended_mode
    assert "nox2apic" in vm.kernel_log()


@pytest.mark.machine("one-cpu")
def test_a_single_cpu_serves_every_queue(ims_device):
    ims_device.set_up(Store.IMS, 64)
    for queue in range(64):
        event = ims_device.model.raise_and_wait(Store.IMS, queue, Deadline(5, f"queue {queue}"))
        assert event.cpu == 0
