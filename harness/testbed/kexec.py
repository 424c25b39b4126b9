# Ref: kexec_file_load(2); Linux kernel Documentation/driver-api/early-userspace/buffer-format.rst.
"""Another kernel in the place of the guest's, without a reset: kexec.

The image that the first kernel boots carries the next one, so that nothing has to be brought into
the guest, and a guest of little memory holds it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from harness.build.image import kernel_modules, module_list
from harness.build.provision import Guest
from harness.host.cpio import Entry, archive
from harness.host.deadline import Deadline
from harness.host.workspace import Workspace
from harness.qemu.machine import BOOT_SECONDS
from harness.testbed.vm import Vm

_KERNEL: Final = "boot/next-kernel"
_IMAGE: Final = "boot/next-image"


class NextKernel:
    """A kernel that a guest can start in its place, with an image of its own.

    :param only: load these modules of the kernel's, and not ours: a stock kernel, which has never
        heard of the vIRTE call.
    """

    def __init__(self, guest: Guest, *, only: Iterable[str] | None = None):
        self.guest = guest
        self._nonce = secrets.token_hex(8)
        self._only = only

    def carried_by(self, first: Guest, workspace: Workspace) -> Guest:
        """Return a guest to boot whose image holds this kernel besides."""
        carried = [
            Entry.directory("boot"),
            Entry.file(_KERNEL, self.guest.kernel.vmlinuz.read_bytes()),
            Entry.file(_IMAGE, self._image()),
        ]
        path = workspace.path("initramfs-with-next-kernel.cpio")
        path.write_bytes(first.image.initramfs.read_bytes() + archive(carried))
        return replace(first, image=replace(first.image, initramfs=path))

    def _image(self) -> bytes:
        image = self.guest.image.initramfs.read_bytes()
        added = [Entry.file("etc/imsh/nonce", f"{self._nonce}\n".encode())]
        if self._only is not None:
            added.append(module_list(kernel_modules(self.guest.kernel, self._only)))
        return image + archive(added)

    @contextmanager
    def starting(self, vm: Vm) -> Iterator[None]:
        """Start it in a guest that carries it. Inside, it is on its way; leaving waits for it.

        :raises GuestPanic, GuestLost, QemuExited: it never answers.
        :raises DeadlineExpired: with the console's tail.
        """
        vm.control.kexec(f"/{_KERNEL}", f"/{_IMAGE}")
        yield
        deadline = Deadline(BOOT_SECONDS, f"the start of {self.guest.kernel.release} by kexec")
        vm.machine.wait_ready_line(self._nonce, deadline)
        vm.restarted(self.guest)
