# Ref: Linux kernel Documentation/dev-tools/kmemleak.rst
"""Memory that our module leaves behind, on a kernel that looks for it (``--kconfig debug``)."""

from __future__ import annotations

import pytest

from harness.testbed.plugged import STORES, PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import deliver

KMEMLEAK = "/sys/kernel/debug/kmemleak"
SCANS = f"for scan in 1 2 3; do sleep 6; echo scan >{KMEMLEAK} || exit 1; done; cat {KMEMLEAK}"
"""A suspect has to be 5 seconds old, and to be the same in two scans (mm/kmemleak.c)."""


@pytest.mark.timeout(280)
def test_a_life_of_the_function_leaves_no_memory_behind(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    if vm.ssh.run(f"echo clear >{KMEMLEAK}", check=False).status:
        pytest.skip("the guest's kernel has no kmemleak")
    for store in STORES:
        ims_device.set_up(store, 4)
        deliver(ims_device, store, 0, 3)
        ims_device.control.reset()
    ims_device.control.hold(100)
    ims_device.control.drop()
    ims_device.unbind()
    assert vm.ssh.run(SCANS).stdout == ""
