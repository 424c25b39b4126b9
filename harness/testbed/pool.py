"""One running machine at a time, for tests that come one after the other."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from harness.build.provision import Provisioner
from harness.host.workspace import make_workspace
from harness.qemu.command import MachineSpec
from harness.testbed.supplies import choose
from harness.testbed.vm import Vm, running_vm

PORTS: Final = 12
"""Root ports of a machine in the pool: each test's function takes one."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A kernel and a machine, by name."""

    kernel: str
    machine: str

    def __str__(self) -> str:
        return f"{self.kernel}-{self.machine}"


class VmPool:
    """Boots the machine that is asked for, and keeps it until another one is."""

    def __init__(self, provisioner: Provisioner, machines: dict[str, MachineSpec], directory: Path):
        self._provisioner = provisioner
        self._machines = machines
        self._directory = directory
        self._choice: Choice | None = None
        self._vm: Vm | None = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the machine that is kept, if there is one."""
        self._vm = self._choice = None
        self._held.close()

    def get(self, wanted: Choice) -> Vm:
        """Return a machine that is alive and has a free port, booting it if need be.

        :raises HarnessError: it could not be provided or did not boot.
        """
        usable = (
            self._vm is not None
            and self._choice == wanted
            and self._vm.machine.vitals.error is None
            and self._vm.free_ports > 0
        )
        if not usable:
            self.close()
            self._vm = self._boot(wanted)
            self._choice = wanted
        assert self._vm is not None
        return self._vm

    def _boot(self, wanted: Choice) -> Vm:
        recipe = choose(self._provisioner.recipes.kernels, wanted.kernel, what="kernel")
        spec = choose(self._machines, wanted.machine, what="machine")
        guest = self._provisioner.guest(recipe)
        workspace = make_workspace(self._directory, str(wanted))
        return self._held.enter_context(
            running_vm(guest, self._provisioner.qemu(), replace(spec, root_ports=PORTS), workspace)
        )
