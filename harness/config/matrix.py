"""Matrices: the kernels and machines that a run of the tests covers, cell by cell."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cell:
    """A kernel on a machine, by name."""

    kernel: str
    machine: str

    def __str__(self) -> str:
        return f"{self.kernel}-{self.machine}"


@dataclass(frozen=True, slots=True)
class Matrix:
    """Every kernel on every machine, but for the cells that are left out."""

    name: str
    description: str
    machines: tuple[str, ...]
    kernels: tuple[str, ...] | None = None
    """None: every recipe."""
    leave_out: tuple[Cell, ...] = ()

    def __post_init__(self) -> None:
        if not self.machines or self.kernels == ():
            raise ValueError("a matrix needs at least one kernel and one machine")
        for what, names in (("kernel", self.kernels or ()), ("machine", self.machines)):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{what} {', '.join(twice)} stands here twice")

    def cells(
        self,
        known_kernels: Collection[str],
        *,
        kernels: Sequence[str] | None = None,
        machines: Sequence[str] | None = None,
    ) -> list[Cell]:
        """Return the cells of a test.

        :param known_kernels: all recipes.
        :param kernels: those that the test is for: of the matrix's, only these.
        :param machines: those that the test is for: these instead of the matrix's.
        """
        mine = self.kernels if self.kernels is not None else tuple(known_kernels)
        every = (
            Cell(kernel, machine)
            for kernel in mine
            if kernels is None or kernel in kernels
            for machine in (self.machines if machines is None else machines)
        )
        return [cell for cell in every if cell not in self.leave_out]
