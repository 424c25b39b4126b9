"""The function that carries the vIRTE call: a guest's door to the hypervisor model.

Reading a CALL register carries out the call in that frame. A write to a doorbell page is a message
of some device of the guest; what the model makes of it is injected as a compatibility-format
message, which QEMU delivers with remapping on or off. See docs/virte.md.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Final, Self

from harness.devices.delivery import Awaited, MessageGate
from harness.devices.virte_function.config import config_space, doorbell_address
from harness.devices.virte_function.events import Called, ReturnedToOldScheme, Signalled
from harness.devices.virte_function.frames import Frames
from harness.devices.virte_function.senders import Senders
from harness.events.stream import Writer, now
from harness.hypervisor.calls import Answered, carry_out
from harness.hypervisor.entry import UNTOLD, Route, Sender
from harness.hypervisor.host import Delivered, Fault, Host
from harness.hypervisor.partition import Partition
from harness.hypervisor.policy import DeliveryPath, Policy
from harness.pci.access_log import AccessLog, RefusalLog
from harness.pci.registers import REGISTER_SIZE, RegisterBank, RegisterCell
from harness.spec import hypercall as regs
from harness.spec.hypercall import CallAnswer, CallRequest, CallStatus, Register
from harness.spec.msi import Message
from harness.spec.pci import CONFIG_SIZE, RequesterId
from harness.spec.vfio import IrqIndexNumber, IrqInfoFlags, RegionFlags, RegionIndex
from harness.vfio_user.device import Bus, IrqIndex, MappableArea, Region

CALLS_SHOWN: Final = 100
"""The last calls in the evidence of a failure."""
_MESSAGE_SIZE: Final = 4


class Area(enum.StrEnum):
    """The parts of the function's regions that are counted apart."""

    CONFIG = "config"
    REGISTERS = "registers"
    CALLS = "calls"
    """CALL registers: each read is a call."""
    FRAMES = "frames"
    """Frames that are not mapped."""
    DOORBELLS = "doorbells"
    """Messages of the guest's devices."""


class VirteFunction:
    """One guest's function. It owns its frames: use it as a context manager.

    :param host: the machine's interrupts, which several guests may share.
    :param mapped: let the client map the frames, so that a call is one trapped access.
    """

    def __init__(self, host: Host, policy: Policy | None = None, *, mapped: bool = True):
        self.config = config_space()
        self.partition = Partition(
            host, lambda: doorbell_address(self.config), policy, is_told=self._is_told
        )
        """The guest, as the hypervisor knows it."""
        self.senders: Senders | None = None
        """Who is asked for the sender of a message that comes as a plain write."""
        self.writer = Writer("virte")
        """Writes all that happens to the function: into a stream of its own, until it joins one."""
        self.accesses = AccessLog(Area, _name, self.writer)
        """Every trapped access."""
        self.refusals = RefusalLog()
        self._frames = Frames(mapped=mapped)
        self._bus: Bus | None = None
        partition, policy = self.partition, self.partition.policy
        layout = regs.Frames(
            count=regs.FRAMES, entries=regs.FRAME_ENTRIES, size=regs.FRAME_SIZE
        ).value
        # fmt: off
        self._registers = RegisterBank([
            RegisterCell(Register.ID,       "ID",       lambda: regs.ID_VALUE),
            RegisterCell(Register.VERSION,  "VERSION",  lambda: regs.VERSION_1_0),
            RegisterCell(Register.FEATURES, "FEATURES", lambda: int(policy.features)),
            RegisterCell(Register.FRAMES,   "FRAMES",   lambda: layout),
            RegisterCell(Register.STATUS,   "STATUS",   lambda: partition.status.value),
            RegisterCell(Register.QUOTA,    "QUOTA",    lambda: policy.quota),
            RegisterCell(Register.LIVE,     "LIVE",     lambda: partition.live),
            RegisterCell(Register.REFUSED,  "REFUSED",  lambda: self.refusals.count),
            *(
                RegisterCell(Register.CALL + REGISTER_SIZE * number, f"CALL[{number}]",
                             lambda number=number: self._call(number))  # type: ignore[misc]
                for number in range(regs.FRAMES)
            ),
        ])
        # fmt: on

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._frames.close()

    def has_doorbell(self, address: int) -> bool:
        """Whether a message to this address is for the hypervisor behind the function."""
        base = doorbell_address(self.config)
        return bool(base) and 0 <= address - base < regs.BAR_DOORBELLS_SIZE

    def translate(self, message: Message, requester_id: RequesterId) -> Awaited | Fault | None:
        """Take a message of a device whose requester id is known. On any thread.

        Return what to put on the bus for it, the fault that it ends in, or None: the host's handler
        has it, and injects.
        """
        place = message.address - doorbell_address(self.config)
        outcome = self._signal(place, message.data, Sender(requester_id, message.pasid))
        if isinstance(outcome, Fault):
            return outcome
        if outcome.path is DeliveryPath.POSTED:
            return Awaited(_injected(outcome), partial(self.partition.landed, outcome))
        self._inject(outcome)
        return None

    def guard(self, gate: MessageGate) -> None:
        """Take no gate: what the function sends is the hypervisor's own, no device's."""

    @property
    def calls(self) -> list[Answered]:
        """The last calls, the newest last."""
        writer = self.writer
        return [event.answered for event in writer.stream.of(Called, source=writer.source)]

    def table(self) -> str:
        """Return the handles, the faults and the last calls, for whoever looks into a failure."""
        host = self.partition.host
        status = self.partition.status
        lines = [f"negotiated: {bool(status.negotiated)}; {self.partition.live} handles"]
        lines += map(str, self.partition.entries())
        lines += [f"blocked: {host.blocked.total()}", *map(str, host.faults)]
        lines += [
            f"refused: {count} handles for {RequesterId(requester)}, whose messages nobody tells"
            for requester, count in self.partition.untold.items()
        ]
        lines += ["calls:", *map(str, self.calls[-CALLS_SHOWN:])]
        return "".join(f"{line}\n" for line in lines)

    # The call and the messages.

    def _call(self, number: int) -> int:
        frame = self._frames.frame(number)
        try:
            answered = carry_out(self.partition, frame)
        except Exception as error:
            # A flaw of the model: the test fails with it, and the guest is told rather than left.
            self._fail(error)
            failed = CallAnswer(CallStatus.FAILED).pack()
            self._frames.answer(number, CallRequest.SIZE, failed)
            return CallStatus.FAILED
        self.writer.stream.write(Called(now(), self.writer.source, number, answered))
        for offset, data in answered.pieces():
            self._frames.answer(number, offset, data)
        return answered.answer.status

    def _fail(self, error: Exception) -> None:
        def fail() -> None:
            raise error

        if self._bus is not None:
            self._bus.defer(fail)

    def _doorbell(self, offset: int, data: bytes) -> bool:
        if len(data) != _MESSAGE_SIZE:
            return False
        value = int.from_bytes(data, "little")
        outcome = self._signal(offset, value, self._sender(offset, value))
        if not isinstance(outcome, Fault):
            self._inject(outcome)
        return True

    def _sender(self, place: int, data: int) -> Sender:
        # Of a message that came as a plain write.
        if self.senders is None:
            return UNTOLD
        requester = self.senders.sender(Message(doorbell_address(self.config) + place, data))
        return Sender(requester, strangers=self.senders.functions)

    def _is_told(self, requester: int) -> bool:
        return self.senders is None or requester in self.senders.known

    def _signal(self, place: int, data: int, sender: Sender) -> Delivered | Fault:
        outcome = self.partition.signal_awaited(place, data, sender)
        self.writer.stream.write(Signalled(now(), self.writer.source, outcome))
        return outcome

    def _inject(self, outcome: Delivered) -> None:
        bus, message = self._bus, _injected(outcome)

        def send() -> None:
            if bus is None or not self.config.bus_master:
                self.partition.landed(outcome)
                return
            verdict = bus.send_message(message.address, message.data)
            verdict.add_done_callback(lambda _: self.partition.landed(outcome))

        if bus is None or outcome.path is DeliveryPath.POSTED:
            send()
        else:
            (self.partition.policy.handler or bus.defer)(send)

    # For the vfio-user server.

    @property
    def regions(self) -> Sequence[Region]:
        """The regions by VFIO index."""
        flags = RegionFlags.READ | RegionFlags.WRITE
        regions = [Region(0, RegionFlags(0))] * len(RegionIndex)
        regions[regs.BAR_REGISTERS] = Region(regs.BAR_REGISTERS_SIZE, flags)
        regions[regs.BAR_FRAMES] = Region(regs.BAR_FRAMES_SIZE, flags)
        regions[regs.BAR_DOORBELLS] = Region(regs.BAR_DOORBELLS_SIZE, flags)
        regions[RegionIndex.CONFIG] = Region(CONFIG_SIZE, flags)
        if self._frames.fd is not None:
            regions[regs.BAR_FRAMES] = Region(
                regs.BAR_FRAMES_SIZE,
                flags | RegionFlags.MMAP,
                mappable=[MappableArea(0, regs.BAR_FRAMES_SIZE)],
                fd=self._frames.fd,
            )
        return regions

    @property
    def irqs(self) -> Sequence[IrqIndex]:
        """The interrupt indices by VFIO index: errors only, never signalled."""
        irqs = [IrqIndex(0, IrqInfoFlags(0))] * len(IrqIndexNumber)
        # Every PCI Express function has this one; without it QEMU warns.
        irqs[IrqIndexNumber.ERR] = IrqIndex(1, IrqInfoFlags.EVENTFD | IrqInfoFlags.NORESIZE)
        return irqs

    def attached(self, bus: Bus) -> None:
        """Begin as after power-on, with a new client."""
        self.reset()
        self._bus = bus

    def detached(self) -> None:
        """Return to the old scheme: the guest is gone."""
        self._bus = None
        self._return_to_old_scheme()

    def reset(self) -> None:
        """Return to the state after power-on: the old scheme, and no handle."""
        self._return_to_old_scheme()
        self.config.reset()
        self.refusals.reset()
        self._frames.reset()

    def _return_to_old_scheme(self) -> None:
        handles, was_new = self.partition.live, self.partition.negotiated
        self.partition.reset()
        if was_new:
            self.writer.stream.write(ReturnedToOldScheme(now(), self.writer.source, handles))

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        """Return what the guest reads; zero where the register map allows no such access."""
        data = self._read(region, offset, count)
        if data is None:
            self.refusals.refuse(region, offset, count, write=False)
            data = bytes(count)
        self.accesses.record(_area(region, offset), region, offset, data, write=False)
        return data

    def _read(self, region: int, offset: int, count: int) -> bytes | None:
        if region == regs.BAR_REGISTERS:
            return self._registers.read(offset, count)
        if region == regs.BAR_FRAMES:
            return self._frames.read(offset, count)
        return self.config.read(offset, count) if region == RegionIndex.CONFIG else None

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        """Take what the guest or one of its devices writes."""
        self.accesses.record(_area(region, offset), region, offset, data, write=True)
        if not self._write(region, offset, data):
            self.refusals.refuse(region, offset, len(data), write=True)

    def _write(self, region: int, offset: int, data: bytes) -> bool:
        if region == regs.BAR_DOORBELLS:
            return self._doorbell(offset, data)
        if region == regs.BAR_FRAMES:
            self._frames.write(offset, data)
            return True
        if region == RegionIndex.CONFIG:
            self.config.write(offset, data)
            if self.config.initiates_flr(offset, data):
                self.reset()
            return True
        return False

    def irqs_wanted(self, index: int, numbers: range) -> None:
        """Refuse nothing: there is no interrupt to be wired."""

    def irqs_changed(self, index: int, start: int, count: int) -> None:
        """Take note of nothing: there is no interrupt to be wired."""


def _injected(outcome: Delivered) -> Message:
    assert isinstance(outcome.route, Route)
    return outcome.route.message()


def _area(region: int, offset: int) -> Area:
    if region == regs.BAR_REGISTERS:
        return Area.CALLS if offset >= Register.CALL else Area.REGISTERS
    return {
        regs.BAR_FRAMES: Area.FRAMES,
        regs.BAR_DOORBELLS: Area.DOORBELLS,
    }.get(region, Area.CONFIG)


def _name(region: int, offset: int) -> str:
    if region == regs.BAR_DOORBELLS:
        return f"DOORBELL[{offset // regs.DOORBELL_PAGE_SIZE}]"
    if region == regs.BAR_REGISTERS and offset >= Register.CALL:
        return f"CALL[{(offset - Register.CALL) // REGISTER_SIZE}]"
    if region == regs.BAR_FRAMES:
        return f"FRAME[{offset // regs.FRAME_SIZE}]"
    return f"+{offset:#x}"
