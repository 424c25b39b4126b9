# Ref: Linux drivers/vfio/pci/vfio_pci_intrs.c (v6.12), the errors of VFIO_DEVICE_SET_IRQS for MSI
#      and MSI-X: vfio_msi_enable(), vfio_msi_set_vector_signal().
"""The trap path: host interrupts behind stores whose accesses are trapped.

A guest without the call writes its store as on bare metal, and whoever traps the writes sets a host
interrupt up for each interrupt that the guest enables. When that is refused there is nobody to
tell: the guest's write has been carried out, and it believes in an interrupt that never comes.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from harness.hypervisor.host import RECORDS, Host
from harness.spec.interrupt import InterruptName, Store


@dataclass(frozen=True, slots=True)
class HostRefusal:
    """A host interrupt that the guest believes in and that is not there."""

    time: float
    """Of the host's clock."""
    interrupt: InterruptName
    error: int
    """The errno that whoever set it up was answered, and could not pass on."""

    def __str__(self) -> str:
        name = errno.errorcode.get(self.error, str(self.error))
        return f"the host refused an interrupt for {self.interrupt} with {name}"


class TrapPath:
    """One function's host interrupts, taken from the same table as the handles of the call.

    Its methods may be called on any thread, under the function's lock.
    """

    def __init__(self, host: Host):
        self.host = host
        self.refusals: deque[HostRefusal] = deque(maxlen=RECORDS)
        """Every refusal, the newest last."""
        self._held: dict[InterruptName, int] = {}
        self._missing: dict[InterruptName, HostRefusal] = {}
        self._failing: deque[int] = deque()

    def fail(self, *errors: int) -> None:
        """Refuse the next set-ups, each with one of these errnos."""
        self._failing.extend(errors)

    def set_up(self, store: Store, numbers: Iterable[int]) -> None:
        """Take a host interrupt for each interrupt of a range that has none; all or nothing.

        :raises OSError: ENOSPC when the host has no more, or what :meth:`fail` says. The guest will
            not be told.
        """
        wanted = [InterruptName(store, number) for number in numbers]
        new = [name for name in wanted if name not in self._held]
        error = self._failing.popleft() if self._failing else self._take(new)
        if error:
            for name in new:
                self._refuse(name, error)
            raise OSError(error, str(self.refusals[-1] if new else "the host refuses"))
        for name in wanted:
            self._missing.pop(name, None)

    def _take(self, names: list[InterruptName]) -> int:
        with self.host.lock:
            if len(names) > self.host.handles.free:
                return errno.ENOSPC
            for name in names:
                handle = self.host.handles.take(1)
                assert handle is not None
                self._held[name] = handle
        return 0

    def take_down(self, store: Store, numbers: Iterable[int]) -> None:
        """Give back what is held for a range."""
        with self.host.lock:
            for number in numbers:
                if (handle := self._held.pop(InterruptName(store, number), None)) is not None:
                    self.host.handles.give_back(handle, 1)

    def lose(self, store: Store, number: int, error: int = errno.EBADF) -> None:
        """Let the way of one interrupt to the guest be gone: its eventfd, say."""
        self.take_down(store, [number])
        self._refuse(InterruptName(store, number), error)

    def _refuse(self, name: InterruptName, error: int) -> None:
        refusal = HostRefusal(self.host.clock(), name, error)
        self.refusals.append(refusal)
        self._missing[name] = refusal

    def missing(self, store: Store, number: int) -> HostRefusal | None:
        """Return why the host has no interrupt for one, None when nothing was refused."""
        return self._missing.get(InterruptName(store, number))

    def reset(self) -> None:
        """Give everything back, as when the guest or the function begins anew."""
        with self.host.lock:
            for handle in self._held.values():
                self.host.handles.give_back(handle, 1)
        self._held.clear()
        self._missing.clear()
