"""One run of the benchmark: what the measurements are given to work with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from harness.build.provision import Guest, Provisioner
from harness.build.qemu import QemuBinary
from harness.config.recipes import load_machines
from harness.errors import HarnessError
from harness.host.progress import Progress
from harness.host.workspace import Workspace, make_workspace
from harness.qemu.command import MachineSpec
from harness.schema.names import choose
from harness.testbed.supplies import DEFAULT_MACHINE

T = TypeVar("T")


@dataclass
class Bench:
    """What to measure on. Nothing is provided or booted before a measurement asks for it."""

    provisioner: Provisioner
    kernel: str
    """Name of the guest kernel's recipe."""
    directory: Path
    """Consoles and transcripts of the machines go below it."""
    progress: Progress
    rounds: int | None = None
    """How often each side of a measurement is taken; None: as often as the measurement likes."""
    tree: Path | None = None
    """A kernel tree of the user's; it is only read."""
    _observed: dict[Callable[[Bench], Any], Any] = field(default_factory=dict)
    _failed: dict[Callable[[Bench], Any], HarnessError] = field(default_factory=dict)

    @functools.cached_property
    def guest(self) -> Guest:
        """The guest that is booted."""
        recipe = choose(self.provisioner.recipes.kernels, self.kernel, what="kernel")
        return self.provisioner.guest(recipe)

    @functools.cached_property
    def qemu(self) -> QemuBinary:
        """The QEMU that runs it."""
        return self.provisioner.qemu()

    @functools.cached_property
    def machine(self) -> MachineSpec:
        """The machine it is booted on."""
        return choose(load_machines(), DEFAULT_MACHINE, what="machine")

    def workspace(self, label: str) -> Workspace:
        """Return a new directory for one machine."""
        return make_workspace(self.directory, label)

    def shared(self, observe: Callable[[Bench], T]) -> T:
        """Return what ``observe`` returns for this run; it is called once, whoever asks.

        :raises HarnessError: what it raised, to each who asks.
        """
        if observe in self._failed:
            raise self._failed[observe]
        if observe not in self._observed:
            try:
                self._observed[observe] = observe(self)
            except HarnessError as error:
                self._failed[observe] = error
                raise
        return cast(T, self._observed[observe])

    def counted(self, what: str, default: int) -> Iterator[int]:
        """Yield the numbers of the rounds from 0 on, telling the user of each as it begins."""
        count = self.rounds or default
        for number in range(count):
            with self.progress.step(f"{what}, round {number + 1} of {count}"):
                yield number
