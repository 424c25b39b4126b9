"""What a run of the tests covers: a matrix, narrowed by the command line and by each test."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from harness.build.kernel import KernelRecipe
from harness.config.matrix import Cell, Matrix
from harness.config.recipes import load_machines, load_matrices, load_recipes
from harness.config.schema import SUFFIX, load
from harness.errors import ConfigError
from harness.qemu.command import MachineSpec
from harness.schema.names import choose
from harness.testbed.trees import tree_words

DEFAULT_MATRIX: Final = "default"


@dataclass(frozen=True, slots=True)
class Selection:
    """The cells of a run."""

    kernels: Mapping[str, KernelRecipe]
    machines: Mapping[str, MachineSpec]
    matrix: Matrix
    only_kernels: Collection[str] = ()
    """If any: no other kernel than these."""
    only_machines: Collection[str] = ()
    """If any: no other machine than these."""
    tree: KernelRecipe | None = None
    """The kernel of the user's that the command line names, if it does."""

    def cells(
        self, kernels: Sequence[str] | None = None, machines: Sequence[str] | None = None
    ) -> list[Cell]:
        """Return the cells on which a test runs.

        :param kernels: those that the test is for.
        :param machines: those that the test is for, in the matrix or not.
        :raises ConfigError: there is no such kernel or machine.
        """
        return [
            cell
            for cell in self.matrix_cells(kernels, machines)
            if not self.only_kernels or cell.kernel in self.only_kernels
            if not self.only_machines or cell.machine in self.only_machines
        ]

    @property
    def machines_outside(self) -> list[str]:
        """The machines of ``only_machines`` that only tests marked for them run on."""
        return [name for name in self.only_machines if name not in self.matrix.machines]

    def kernel_names(self) -> list[str]:
        """Return the kernels of all cells."""
        return list(dict.fromkeys(cell.kernel for cell in self.cells()))

    def matrix_cells(
        self, kernels: Sequence[str] | None = None, machines: Sequence[str] | None = None
    ) -> list[Cell]:
        """Return the cells that the matrix has for a test; the command line does not narrow them.

        The arguments and errors are those of :meth:`cells`.
        """
        _all_known(self.kernels, kernels or (), what="kernel")
        _all_known(self.machines, machines or (), what="machine")
        return self.matrix.cells(self.kernels, kernels=kernels, machines=machines)


def make_selection(
    matrix: str | None = None,
    only_kernels: Collection[str] = (),
    only_machines: Collection[str] = (),
    tree: KernelRecipe | None = None,
) -> Selection:
    """Return what a run covers.

    :param matrix: a matrix's name, or a file: then it ends in ``.yaml``.
    :param tree: a kernel that takes the place of all that the matrix has.
    :raises ConfigError: a recipe is wrong, or something is named that there is not.
    """
    kernels, machines = load_recipes().kernels, load_machines()
    matrix = matrix or DEFAULT_MATRIX
    found = _load_matrix(matrix, kernels, machines)
    _all_known(machines, only_machines, what="machine")
    if tree:
        if only_kernels:
            raise ConfigError(
                f"--kernel and {tree_words(tree)[0]} both name the guest kernel: give one"
            )
        return Selection(
            kernels | {tree.name: tree},
            machines,
            replace(found, kernels=(tree.name,), leave_out=()),
            only_machines=only_machines,
            tree=tree,
        )
    _all_known(kernels, only_kernels, what="kernel")
    if found.kernels and (absent := [name for name in only_kernels if name not in found.kernels]):
        raise ConfigError(
            f"the matrix {matrix} has no kernel {absent[0]!r}",
            hint=f"it has {', '.join(found.kernels)}; choose another with --matrix",
        )
    return Selection(kernels, machines, found, only_kernels, only_machines)


def _load_matrix(name: str, kernels: Mapping[str, Any], machines: Mapping[str, Any]) -> Matrix:
    if name.endswith(SUFFIX):
        matrix = load(Path(name), Matrix)
    else:
        matrix = choose(load_matrices(), name, what="matrix")
    left_out = matrix.leave_out
    try:
        _all_known(kernels, matrix.kernels or (), what="kernel")
        _all_known(kernels, [cell.kernel for cell in left_out], what="kernel")
        _all_known(machines, matrix.machines, what="machine")
        _all_known(machines, [cell.machine for cell in left_out], what="machine")
    except ConfigError as error:
        raise ConfigError(f"matrix {name}: {error.message}", hint=error.hint) from error
    return matrix


def _all_known(known: Mapping[str, Any], names: Collection[str], *, what: str) -> None:
    for name in names:
        choose(known, name, what=what)
