"""A harness to be killed: ``python -m tests.guest.doomed WORKSPACE`` boots a machine and waits.

It prints QEMU's process id when QEMU runs, and ``ready`` when the guest does.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from harness.config.recipes import load_machines
from harness.guest.kernel_log import alarm
from harness.host.workspace import Workspace
from harness.qemu.launch import Boot, running_machine
from harness.testbed.supplies import (
    DEFAULT_KERNEL,
    DEFAULT_MACHINE,
    make_provisioner,
)


def tell(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Boot, tell, and wait for the end."""
    provisioner = make_provisioner()
    guest = provisioner.guest(provisioner.recipes.kernels[DEFAULT_KERNEL])
    with running_machine(
        load_machines()[DEFAULT_MACHINE],
        qemu=provisioner.qemu().argv,
        boot=Boot(kernel=guest.kernel.vmlinuz, image=guest.image.initramfs),
        workspace=Workspace(Path(sys.argv[1])),
        alarm=alarm,
    ) as machine:
        tell(str(machine.pid))
        machine.wait_ready()
        tell("ready")
        time.sleep(600)


if __name__ == "__main__":
    main()
