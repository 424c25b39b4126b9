"""A device whose MSI parent is no remapping unit's: IMS is refused, whatever that parent is."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from harness.build.provision import Provisioner
from harness.build.sandbox import SHOWN
from harness.guest.control import ControlError
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import deliver

SOURCES = Path(__file__).with_name("foreign")


@pytest.fixture
def foreign(provisioner: Provisioner, vm: Vm, tmp_path: Path) -> bytes:
    """The module that gives a device such a parent, built for the guest's kernel."""
    work = tmp_path / "foreign"
    shutil.copytree(SOURCES, work)
    kernel = vm.guest.kernel
    provisioner.sandbox.run_step(
        ["make", f"-j{os.cpu_count() or 1}", "-C", str(kernel.build), f"M={SHOWN}/foreign",
         "W=1", "KCFLAGS=-Werror", "cmd_checkdoc=", "modules"],
        root=kernel.toolchain.root,
        step="building the foreign MSI parent",
        log=tmp_path / "build.log",
        deadline=Deadline(300, "the foreign MSI parent"),
        readable=kernel.shown,
        writable={"foreign": work},
    )  # fmt: skip
    return (work / "foreign.ko").read_bytes()


@pytest.mark.capability("B5")
@pytest.mark.timeout(280)
@pytest.mark.machine("caching")
def test_ims_is_refused_behind_a_parent_that_does_not_remap(
    vm: Vm, ims_device: PluggedFunction, foreign: bytes
) -> None:
    guest, slot = ims_device.control, ims_device.slot
    vm.ssh.put(foreign, "/run/foreign.ko")
    vm.control.unbind(slot)
    vm.ssh.run(f"insmod /run/foreign.ko slot={slot}")
    vm.control.bind(slot)
    function = guest.facts()
    assert (function.msi_parent, function.remapping, function.ims_domain) == (
        "FOREIGN",
        False,
        "none",
    )
    for operation in (lambda: guest.alloc(Store.IMS), lambda: guest.hold(1)):
        with pytest.raises(ControlError) as refused:
            operation()
        assert refused.value.errno == errno.EOPNOTSUPP
    assert "FOREIGN does not remap: no IMS" in vm.kernel_log()

    vm.control.unbind(slot)
    vm.ssh.run("rmmod foreign")
    vm.control.bind(slot)
    ims_device.set_up(Store.IMS, 1)
    deliver(ims_device, Store.IMS, 0)
