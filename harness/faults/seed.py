"""How a fault gets into a running machine: into kernel text, or into the model of its device.

Neither the kernel, nor our module, nor the model knows anything of it: no flag, no parameter, no
build of its own.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from harness.errors import HarnessError, MissingRequirement
from harness.faults.change import Change, altered
from harness.faults.code import Line, disassemble
from harness.faults.place import Place
from harness.guest.symbols import PATH, Function, Symbols, parse_symbols
from harness.host.cache import Cache, cache_directory, digest
from harness.host.progress import Progress
from harness.qemu.gdb import StoppedGuest, stopped_guest
from harness.testbed.snapshots import RESTORED_BOOT_LOG
from harness.testbed.vm import Vm

log = logging.getLogger(__name__)

SYMBOLS_SECONDS: Final = 60.0
"""Bound of reading the kernel's symbols: some 150,000 lines."""

_SYMBOLS: Final = "symbols"
_KEPT: Final = 16
"""Boots of one kernel whose symbols stay, of 8 MB each: a campaign has one for each machine."""

LARGEST: Final = 0x4000
"""No function that is looked into is larger."""


class NotApplicable(MissingRequirement):
    """This kernel has no such place: the fault cannot be in it."""


class Seed(Protocol):
    """What a fault consists of."""

    def sown(self, vm: Vm) -> contextlib.AbstractContextManager[str]:
        """Hold the fault in a machine; yields where it is.

        :raises NotApplicable: this machine has no place for it.
        """


@dataclass(frozen=True, slots=True)
class Patch:
    """A change of text of the running kernel or of a module in it, at every line of a place."""

    place: Place
    change: Change

    @contextlib.contextmanager
    def sown(self, vm: Vm) -> Iterator[str]:
        symbols = _symbols(vm)
        with stopped_guest(vm.machine) as guest:
            lines = _find(self.place, symbols, guest)
            for line in lines:
                guest.write(line.address, altered(self.change, line))
        log.info("seeded at %s", "; ".join(map(str, lines)))
        try:
            yield "; ".join(map(str, lines))
        finally:
            # Others may share the machine, unless it is lost.
            if vm.machine.vitals.error is None:
                with stopped_guest(vm.machine) as guest:
                    for line in lines:
                        guest.write(line.address, line.code)


def _symbols(vm: Vm) -> Symbols:
    """Return the symbols of a guest's kernel, which are read once for all that have its boot.

    To read them takes an emulated guest seconds. They stand at the same addresses in every guest
    that is continued from one snapshot, and no two boots have the same log, with its times.
    """

    def read() -> str:
        return vm.host.read_file(PATH, seconds=SYMBOLS_SECONDS)

    boot = vm.machine.workspace.path(RESTORED_BOOT_LOG)
    if not boot.exists():  # booted for this test alone
        return parse_symbols(read())

    cache, name = Cache(cache_directory(), Progress(sys.stderr)), vm.guest.kernel.name

    def make(directory: Path, record: Path) -> None:
        (directory / _SYMBOLS).write_text(read())
        # Room for one more: the new one is not counted until it is complete.
        cache.forget_old(_SYMBOLS, name, keep=_KEPT - 1)

    key = digest(boot.read_bytes(), vm.host.read_file("/proc/modules"))
    found = cache.provide(_SYMBOLS, name, key, make)
    return parse_symbols((found / _SYMBOLS).read_text())


def _find(place: Place, symbols: Symbols, guest: StoppedGuest) -> list[Line]:
    functions = [found for name in place.within for found in symbols.functions(name)]
    lines = [line for one in functions for line in place.find(_lines(one, symbols, guest))]
    if not lines:
        known = ", ".join(one.symbol for one in functions) or "none of these functions"
        raise NotApplicable(
            f"this kernel has no place for the fault: {place}", hint=f"looked into {known}"
        )
    return lines


def _lines(function: Function, symbols: Symbols, guest: StoppedGuest) -> list[Line]:
    size = min(function.size, LARGEST)
    return disassemble(function, guest.read(function.address, size), symbols)


@dataclass(frozen=True, slots=True)
class Together:
    """Several seeds at once, where one alone would have no effect."""

    seeds: tuple[Seed, ...]

    @contextlib.contextmanager
    def sown(self, vm: Vm) -> Iterator[str]:
        with contextlib.ExitStack() as held:
            yield "; ".join(held.enter_context(seed.sown(vm)) for seed in self.seeds)


Original = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Replacement:
    """Another method in the place of one of a class of ours: the model of a device, most of all."""

    owner: type
    method: str
    make: Callable[[Original], Original]
    """From the method as it is to the one that is wrong."""

    @contextlib.contextmanager
    def sown(self, vm: Vm) -> Iterator[str]:
        original = vars(self.owner).get(self.method)
        if original is None:
            raise HarnessError(f"{self.owner.__name__} has no method {self.method} of its own")
        setattr(self.owner, self.method, self.make(original))
        try:
            yield f"{self.owner.__name__}.{self.method}"
        finally:
            setattr(self.owner, self.method, original)
