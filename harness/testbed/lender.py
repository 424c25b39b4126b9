"""Lends guests to tests: a fresh one each, one that several share, or one that boots for real."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from harness.build.provision import Guest, Provisioner
from harness.config.matrix import Cell
from harness.host.workspace import Workspace, make_workspace
from harness.qemu.command import MachineSpec
from harness.schema.names import choose
from harness.testbed.snapshots import Snapshots
from harness.testbed.vm import Vm, running_vm

SHARED_PORTS: Final = 12
"""Root ports of a machine that tests share: each test's function takes one for good."""
PORTS_OF_A_TEST: Final = 3
"""Functions that one test may plug in: a shared machine that has not so many free is done."""


class VmLender:
    """Guests of one test worker. It owns the shared one that is kept; close it at the end.

    :param directory: where machines leave their files while they run. Those of a machine are
        removed when its borrower is done, unless it ended with an error.
    """

    def __init__(self, provisioner: Provisioner, machines: dict[str, MachineSpec], directory: Path):
        self._provisioner = provisioner
        self._machines = machines
        self._directory = directory
        self._snapshots: Snapshots | None = None
        self._shared: tuple[str, Cell, Vm] | None = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end_shared()

    def machine(self, cell: Cell) -> MachineSpec:
        """Return the machine of a cell, as its recipe has it."""
        return choose(self._machines, cell.machine, what="machine")

    @contextlib.contextmanager
    def fresh_vm(self, cell: Cell) -> Iterator[Vm]:
        """Hold a guest that nobody has touched: it continues from a snapshot of its boot.

        :raises HarnessError: it could not be provided, or did not answer.
        """
        with self._workspace(cell) as workspace, self._restored(cell, workspace) as vm:
            yield vm

    @contextlib.contextmanager
    def booted_vm(self, cell: Cell, kernel_arguments: tuple[str, ...] = ()) -> Iterator[Vm]:
        """Hold a guest that boots for real, with words added to its kernel's command line.

        :raises HarnessError: as :meth:`fresh_vm`.
        """
        guest, spec = self._supplies(cell)
        with (
            self._workspace(cell) as workspace,
            running_vm(
                guest,
                self._provisioner.qemu(),
                spec,
                workspace,
                kernel_arguments=kernel_arguments,
            ) as vm,
        ):
            yield vm

    def shared_vm(self, cell: Cell, group: str) -> Vm:
        """Return the guest of a group of tests; it is ended when another group's is asked for.

        A guest that was lost, or has no ports left for one more test, is replaced.

        :raises HarnessError: as :meth:`fresh_vm`.
        """
        if self._shared is not None:
            of, on, vm = self._shared
            room = vm.free_ports >= PORTS_OF_A_TEST
            if (of, on) == (group, cell) and room and not vm.machine.vitals.error:
                return vm
        self._end_shared()
        workspace = self._held.enter_context(self._workspace(cell))
        vm = self._held.enter_context(self._restored(cell, workspace, ports=SHARED_PORTS))
        self._shared = (group, cell, vm)
        return vm

    def retire(self, vm: Vm) -> None:
        """Lend a guest no more: what is wrong with it is the news of one test, not of the next."""
        if self._shared is not None and self._shared[2] is vm:
            self._end_shared()

    def _end_shared(self) -> None:
        self._shared = None
        self._held.close()

    def _restored(
        self, cell: Cell, workspace: Workspace, *, ports: int = 1
    ) -> contextlib.AbstractContextManager[Vm]:
        guest, spec = self._supplies(cell)
        if self._snapshots is None:
            self._snapshots = Snapshots(self._provisioner.cache, self._provisioner.qemu())
        ports = max(ports, spec.root_ports)
        return self._snapshots.restored_vm(guest, replace(spec, root_ports=ports), workspace)

    def _supplies(self, cell: Cell) -> tuple[Guest, MachineSpec]:
        recipe = choose(self._provisioner.recipes.kernels, cell.kernel, what="kernel")
        return self._provisioner.guest(recipe), self.machine(cell)

    @contextlib.contextmanager
    def _workspace(self, cell: Cell) -> Iterator[Workspace]:
        workspace = make_workspace(self._directory, str(cell))
        try:
            yield workspace
        except BaseException as error:
            error.add_note(f"what the machine left: {workspace.directory}")
            raise
        shutil.rmtree(workspace.directory, ignore_errors=True)
