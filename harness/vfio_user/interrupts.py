# Ref: QEMU docs/interop/vfio-user.rst, VFIO_USER_DEVICE_SET_IRQS (QEMU 11.1);
#      Linux include/uapi/linux/vfio.h, struct vfio_irq_set (v6.12).
"""What a client has wired to the device's interrupts: eventfds, masks, what is held by them."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from harness.spec.vfio import IrqInfoFlags, IrqSetFlags
from harness.vfio_user.device import IrqIndex
from harness.vfio_user.eventfd import is_eventfd, signaller
from harness.vfio_user.wire import IrqSet

_DATA: Final = IrqSetFlags.DATA_NONE | IrqSetFlags.DATA_BOOL | IrqSetFlags.DATA_EVENTFD
_ACTION: Final = IrqSetFlags.ACTION_MASK | IrqSetFlags.ACTION_UNMASK | IrqSetFlags.ACTION_TRIGGER


@dataclass(slots=True)
class _Vector:
    """One interrupt: its eventfd for each action (the file descriptors are owned), and its mask."""

    fds: dict[IrqSetFlags, int]
    masked: bool = False
    pending: bool = False


class Interrupts:
    """The state behind DEVICE_SET_IRQS. Any thread may trigger; the server's thread changes it.

    A masked interrupt that is raised stays pending and is signalled once when it is unmasked. An
    AUTOMASKED index masks an interrupt as it is signalled.

    NORESIZE is a promise about the host that the client acts on; it is not enforced, because a
    client sends a large set in several messages (as many descriptors as ``max_msg_fds``), which
    look the same as growing it.

    :param wanted: :meth:`~.device.Device.irqs_wanted`.
    """

    def __init__(self, irqs: Sequence[IrqIndex], wanted: Callable[[int, range], None]):
        self._irqs = tuple(irqs)
        self._wanted = wanted
        self._signal = signaller().signal
        self._lock = threading.Lock()
        self._vectors = [[_Vector({}) for _ in range(irq.count)] for irq in self._irqs]

    def set(self, request: IrqSet, data: bytes, fds: list[int]) -> None:
        """Carry out DEVICE_SET_IRQS. Takes from ``fds`` what it keeps.

        :raises OSError: EINVAL when the request contradicts itself or the device, ENOTSUP when the
            index cannot be masked, or what the host answers. Nothing has changed then.
        """
        flags = IrqSetFlags(request.flags)
        kind, action = flags & _DATA, flags & _ACTION
        self._check(request, kind, action, data, fds)
        start, stop = request.start, request.start + request.count
        if request.count == 0:
            self._disable(request.index)
        elif kind == IrqSetFlags.DATA_EVENTFD:
            if fds and action == IrqSetFlags.ACTION_TRIGGER:
                self._wanted(request.index, range(start, stop))
            self._wire(request.index, range(start, stop), action, fds)
        else:
            for number in range(start, stop):
                if kind == IrqSetFlags.DATA_NONE or data[number - start]:
                    self._act(request.index, number, action)

    def _check(
        self,
        request: IrqSet,
        kind: IrqSetFlags,
        action: IrqSetFlags,
        data: bytes,
        fds: Sequence[int],
    ) -> None:
        if kind.bit_count() != 1 or action.bit_count() != 1 or request.flags != kind | action:
            raise OSError(errno.EINVAL, f"flags {request.flags:#x}: not one data and one action")
        if request.index >= len(self._irqs):
            raise OSError(errno.EINVAL, f"no interrupt index {request.index}")
        irq = self._irqs[request.index]
        if request.argsz != IrqSet.FORMAT.size + len(data):
            raise OSError(errno.EINVAL, f"argsz {request.argsz} is not the size of the request")
        if len(data) != (request.count if kind == IrqSetFlags.DATA_BOOL else 0):
            raise OSError(errno.EINVAL, f"{len(data)} bytes of data for {request.count} vectors")
        if request.start >= irq.count or request.start + request.count > irq.count:
            raise OSError(errno.EINVAL, f"vectors beyond the {irq.count} of index {request.index}")
        if request.count == 0 and (
            kind != IrqSetFlags.DATA_NONE
            or action != IrqSetFlags.ACTION_TRIGGER
            or request.start != 0
        ):
            raise OSError(errno.EINVAL, "a count of 0 is for disabling a whole index only")
        if action != IrqSetFlags.ACTION_TRIGGER and not irq.flags & IrqInfoFlags.MASKABLE:
            raise OSError(errno.ENOTSUP, f"index {request.index} cannot be masked")
        if kind != IrqSetFlags.DATA_EVENTFD:
            if fds:
                raise OSError(errno.EINVAL, "file descriptors with data that is not eventfds")
            return
        if not irq.flags & IrqInfoFlags.EVENTFD:
            raise OSError(errno.EINVAL, f"index {request.index} does not signal eventfds")
        if len(fds) not in (0, request.count):
            raise OSError(errno.EINVAL, f"{len(fds)} eventfds for {request.count} vectors")
        for fd in fds:
            if not is_eventfd(fd):
                raise OSError(errno.EINVAL, "a file descriptor that is not an eventfd")

    def _disable(self, index: int) -> None:
        """De-assign every eventfd of an index, and forget masks and what is pending."""
        with self._lock:
            for vector in self._vectors[index]:
                for fd in vector.fds.values():
                    os.close(fd)
                vector.fds.clear()
                vector.masked = vector.pending = False

    def _wire(self, index: int, numbers: range, action: IrqSetFlags, fds: list[int]) -> None:
        with self._lock:
            for number in numbers:
                assigned = self._vectors[index][number].fds
                if (old := assigned.pop(action, None)) is not None:
                    os.close(old)
                if fds:
                    assigned[action] = fds.pop(0)

    def _act(self, index: int, number: int, action: IrqSetFlags) -> None:
        if action == IrqSetFlags.ACTION_TRIGGER:
            self.trigger(index, number)
            return
        mask = action == IrqSetFlags.ACTION_MASK
        with self._lock:
            vector = self._vectors[index][number]
            changed = vector.masked != mask
            vector.masked = mask
            if changed and (fd := vector.fds.get(action)) is not None:
                self._signal(fd)
            if not mask and vector.pending:
                self._raise(index, vector)

    def _raise(self, index: int, vector: _Vector) -> None:
        """Signal an unmasked interrupt. The caller holds the lock."""
        vector.pending = False
        if (fd := vector.fds.get(IrqSetFlags.ACTION_TRIGGER)) is not None:
            self._signal(fd)
            if self._irqs[index].flags & IrqInfoFlags.AUTOMASKED:
                vector.masked = True

    def is_wired(self, index: int, number: int) -> bool:
        """Whether an interrupt has a trigger eventfd."""
        with self._lock:
            return IrqSetFlags.ACTION_TRIGGER in self._vectors[index][number].fds

    def trigger(self, index: int, number: int) -> bool:
        """Raise an interrupt: signal it, or hold it while masked. False when nothing is wired."""
        with self._lock:
            vector = self._vectors[index][number]
            if IrqSetFlags.ACTION_TRIGGER not in vector.fds:
                return False
            if vector.masked:
                vector.pending = True
            else:
                self._raise(index, vector)
            return True

    def close(self) -> None:
        """Close every eventfd; nothing is wired any more."""
        for index in range(len(self._irqs)):
            self._disable(index)
