"""BAR 0: the control registers and the event slots."""

from __future__ import annotations

from collections.abc import Callable

from harness.devices.ims_function.address_map import AddressMap
from harness.devices.ims_function.ims import ImsStore
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.devices.ims_function.work_queue import WorkQueue
from harness.devices.ledger import Event, Ledger
from harness.pci.access_log import RefusalLog
from harness.pci.registers import REGISTER_SIZE, RegisterBank, RegisterCell
from harness.spec.ims_function import (
    EVENT_SLOT_SIZE,
    ID_VALUE,
    IMS_PENDING_SIZE,
    VERSION_VALUE,
    Control,
    EventSlot,
    ImsCapability,
    Register,
    Status,
)
from harness.vfio_user.device import Bus

_EVENT_SLOTS = Register.EVENT_MSI
"""First byte of the event slots; the registers are below."""


class ControlBar:
    """Reads and writes of BAR 0; the caller holds the function's lock.

    :param bus: gives the client, for the doorbell.
    :param reset: resets the function's own state.
    :param answered: told of each event that a handler has answered.
    """

    def __init__(
        self,
        *,
        spec: ImsFunctionSpec,
        queue: WorkQueue,
        ims: ImsStore,
        ledger: Ledger,
        refusals: RefusalLog,
        address_map: AddressMap,
        bus: Callable[[], Bus | None],
        reset: Callable[[], None],
        answered: Callable[[Event], None],
    ):
        self._queue = queue
        self._ledger = ledger
        self._reset = reset
        self._answered = answered
        self._slot = address_map.event_slot
        capability = ImsCapability(entries=spec.ims_entries, mapped=spec.ims_mapped)
        # fmt: off
        self._bank = RegisterBank([
            RegisterCell(Register.ID,             "ID",             lambda: ID_VALUE),
            RegisterCell(Register.VERSION,        "VERSION",        lambda: VERSION_VALUE),
            RegisterCell(Register.IMS_CAPABILITY, "IMS_CAPABILITY", lambda: capability.value),
            RegisterCell(Register.STATUS,         "STATUS",         self._status),
            RegisterCell(Register.CONTROL,        "CONTROL",        self._control,
                         self._write_control, Control(wq_enable=1, reset=1).value),
            RegisterCell(Register.WQ_SIZE,        "WQ_SIZE",        lambda: queue.size,
                         queue.set_size),
            RegisterCell(Register.WQ_BASE_LO,     "WQ_BASE_LO",     lambda: queue.base & 0xFFFFFFFF,
                         lambda value: queue.set_base(value, shift=0), 0xFFFFFFC0),
            RegisterCell(Register.WQ_BASE_HI,     "WQ_BASE_HI",     lambda: queue.base >> 32,
                         lambda value: queue.set_base(value, shift=32)),
            RegisterCell(Register.WQ_TAIL,        "WQ_TAIL",        lambda: queue.tail,
                         lambda value: queue.ring(value, bus())),
            RegisterCell(Register.WQ_HEAD,        "WQ_HEAD",        lambda: queue.head),
            RegisterCell(Register.REFUSED,        "REFUSED",        lambda: refusals.count),
            RegisterCell(Register.UNANSWERED,     "UNANSWERED",     lambda: ledger.unanswered),
            *(
                RegisterCell(Register.IMS_PENDING + at, "IMS_PENDING",
                             lambda at=at: ims.pending_word(at))  # type: ignore[misc]
                for at in range(0, IMS_PENDING_SIZE, REGISTER_SIZE)
            ),
        ])
        # fmt: on

    def _status(self) -> int:
        active = self._queue.active or self._queue.under_way
        return Status(wq_active=active, wq_error=bool(self._queue.error)).value

    def _control(self) -> int:
        return Control(wq_enable=self._queue.enabled).value

    def _write_control(self, value: int) -> bool:
        control = Control.unpack(value)
        if control.reset:
            self._reset()
        else:
            self._queue.enable(bool(control.wq_enable))
        return True

    def read(self, offset: int, count: int) -> bytes | None:
        """Return the bytes of an access, None when it is not allowed."""
        if offset < _EVENT_SLOTS:
            return self._bank.read(offset, count)
        slot = self._slot(offset)
        if slot is None or count not in (4, EVENT_SLOT_SIZE):
            return None
        return self._ledger.oldest(*slot).to_bytes(count, "little")

    def write(self, offset: int, data: bytes) -> bool:
        """Carry out a write to a register; False when the access is not allowed."""
        return self._bank.write(offset, data)

    def answer(self, offset: int, data: bytes) -> bool:
        """Take an answer written to an event slot; False when the access is not allowed.

        It takes one whole write: of two halves, the first would have to be kept for every slot.
        """
        slot = self._slot(offset)
        if slot is None or len(data) != EVENT_SLOT_SIZE:
            return False
        value = EventSlot.unpack(data)
        event = self._ledger.answer(*slot, value.sequence, value.cpu)
        if event is not None:
            self._answered(event)
        return True
