"""The commands of ``imsh poke``, and the device that they work on."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import queue
import re
import select
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from harness.devices.ims_function.function import ImsFunction
from harness.devices.ledger import Fate
from harness.errors import ConfigError, HarnessError
from harness.host.deadline import Deadline
from harness.schema.names import choose
from harness.spec import ims_function as regs
from harness.spec.bitfield import Layout
from harness.spec.ims_function import Register
from harness.spec.interrupt import Store
from harness.spec.msi import DeliveryMode, Message, RemappableMessage
from harness.spec.pci import Header
from harness.spec.vfio import IrqIndexNumber, IrqInfoFlags, RegionFlags, RegionIndex
from harness.vfio_user.client import Client

VERDICT_SECONDS: Final = 5.0
"""How long the answer to an interrupt message may take."""
VECTOR_BITS: Final = 11
"""MSI-X has the most vectors, 2048."""

_DMA: Final = "dma"
_SCALARS: Final = (1, 2, 4, 8)
_REGIONS: Final = {region.name.lower(): region for region in RegionIndex}
_IRQS: Final = {irq.name.lower(): irq for irq in IrqIndexNumber}
_STORES: Final = {store.name.lower(): store for store in Store if store is not Store.NONE}
_LAYOUTS: Final[Mapping[Register, type[Layout]]] = {
    Register.IMS_CAPABILITY: regs.ImsCapability,
    Register.STATUS: regs.Status,
    Register.CONTROL: regs.Control,
}


class Bench:
    """A device on the bench: a client of it, and everything that the device sends.

    :param function: the device when it is one of ours in this process, else None.
    """

    def __init__(self, function: ImsFunction | None):
        self.client: Client
        self._function = function
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._message_came = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._eventfds: dict[tuple[IrqIndexNumber, int], int] = {}
        self._memory: dict[int, mmap.mmap] = {}
        self._has_arrived = False
        """Whether anything has since the last wait, shown or not."""

    def close(self) -> None:
        """Give back the eventfds. The memory is the client's."""
        for fd in (*self._eventfds.values(), self._message_came):
            os.close(fd)

    def take_write(self, address: int, data: bytes) -> None:
        """Take a DMA write outside of the memory that was mapped: an interrupt message, or wrong.

        :raises OSError: EFAULT, the device's answer: there is neither memory nor a message here.
        """
        message = Message(address, int.from_bytes(data, "little"))
        if is_message := message.is_interrupt and len(data) == 4:
            self._messages.put(f"DMA write {message}: {_describe(message)}")
        else:
            self._messages.put(f"DMA write {address:#x}: {data.hex()}, refused: no memory there")
        os.eventfd_write(self._message_came, 1)
        if not is_message:
            raise OSError(errno.EFAULT, f"nothing at {address:#x}")

    def carry_out(self, words: Sequence[str]) -> str:
        """Carry out one command and return what there is to say, if anything.

        :raises ConfigError: it cannot be understood; names the word.
        :raises HarnessError: the server refused.
        """
        command = choose(COMMANDS, words[0], what="command")
        line = " ".join(words)
        if not command.takes(len(words) - 1):
            raise ConfigError(f"{line!r} is not {command.usage}")
        try:
            return command.call(self, *words[1:]) or ""
        except OSError as error:
            code = errno.errorcode.get(error.errno or 0, "no errno")
            raise HarnessError(f"{line}: {error.strerror or error} ({code})") from error

    def arrivals(self) -> Iterator[str]:
        """Yield what the device has sent and signalled since the last time."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._message_came)
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._messages.get_nowait()
                self._has_arrived = True
                yield message
        for (index, vector), fd in self._eventfds.items():
            with contextlib.suppress(BlockingIOError):
                count = os.eventfd_read(fd)
                self._has_arrived = True
                yield f"{index.name.lower()} {vector}: signalled" + f" {count} times" * (count > 1)

    # Commands. Their arguments are the user's words; what they return is shown.

    def info(self) -> str:
        """Return what the device has: regions and interrupts."""
        vendor, device = self._identity()
        lines = [f"device  {vendor:04x}:{device:04x}"]
        counts = self.client.device_info()
        for number in range(counts.num_regions):
            region = self.client.region_info(number)
            if region.size:
                flags = _flag_names(region.flags & (RegionFlags.READ | RegionFlags.WRITE))
                areas = [f", mappable {area.offset:#x}+{area.size:#x}" for area in region.mappable]
                name = _name_of(_REGIONS, number)
                lines.append(f"{name:<7} {region.size:#x} bytes, {flags}{''.join(areas)}")
        for number in range(counts.num_irqs):
            irq = self.client.irq_info(number)
            if irq.count:
                name = _name_of(_IRQS, number)
                lines.append(f"{name:<7} {irq.count} interrupts, {_flag_names(irq.flags)}")
        return "\n".join(lines)

    def read(self, region: str, offset: str, size: str = "4") -> str:
        """Return what stands in a region, or in memory given by ``map``."""
        at, count = _number(offset), _number(size, bits=32)
        name = ""
        if region == _DMA:
            memory, place = self._locate(at, count)
            data = memory[place : place + count]
        else:
            number = choose(_REGIONS, region, what="region", also=[_DMA])
            data = self.client.region_read(number, at, count)
            if self._function:
                name = f" {self._function.address_map.name(number, at)}"
        if count not in _SCALARS:
            return _dump(data, at)
        value = int.from_bytes(data, "little")
        return f"{region} {at:#x}{name}: {value:#0{2 * count + 2}x}"

    def write(self, region: str, offset: str, value: str, size: str = "4") -> None:
        """Write a number to a region, or to memory given by ``map``."""
        at, count = _number(offset), _number(size)
        if count not in _SCALARS:
            raise ConfigError(f"write: the size is 1, 2, 4 or 8 bytes, not {size}")
        data = _number(value, bits=8 * count).to_bytes(count, "little")
        if region == _DMA:
            memory, place = self._locate(at, count)
            memory[place : place + count] = data
        else:
            self.client.region_write(choose(_REGIONS, region, what="region", also=[_DMA]), at, data)

    def map(self, address: str, size: str) -> None:
        """Give the device memory."""
        at, count = _number(address), _number(size, bits=32)
        if not count:
            raise ConfigError("map: there is no memory of 0 bytes")
        self._memory[at] = self.client.map_shared(at, count)

    def irq(self, index: str, vectors: str, action: str) -> None:
        """Wire, mask or trigger interrupts by DEVICE_SET_IRQS."""
        number = choose(_IRQS, index, what="interrupt index")
        first, _, last = vectors.partition("-")
        start = _number(first, bits=VECTOR_BITS)
        count = _number(last or first, bits=VECTOR_BITS) - start + 1
        if count < 1:
            raise ConfigError(f"irq: {vectors!r} is not a range of vectors")
        actions: dict[str, Callable[[], None]] = {
            "eventfd": lambda: self.client.wire_irqs(
                number, start, self._wires(number, start, count)
            ),
            "off": lambda: self.client.wire_irqs(number, start, [None] * count),
            "mask": lambda: self.client.mask_irqs(number, start, count),
            "unmask": lambda: self.client.unmask_irqs(number, start, count),
            "trigger": lambda: self.client.trigger_irqs(number, start, count),
        }
        choose(actions, action, what="action")()

    def raise_interrupt(self, store: str, index: str) -> str:
        """Have our own device raise an interrupt; return what became of it."""
        number = choose(_STORES, store, what="store")
        if self._function is None:
            raise ConfigError("raise: only a device in this process can be told to")
        if not self._function.has(number, _number(index)):
            raise ConfigError(f"raise: the device has no interrupt {store} {index}")
        event = self._function.open(number, _number(index))
        # The client's idle thread answers; the message has been taken when the verdict is there.
        verdict = self._function.send(event)
        refusal = verdict.exception(VERDICT_SECONDS) if verdict else None
        if refusal:
            return f"event {event.sequence} on {event.interrupt}, refused: {refusal}"
        if event.fate is Fate.BLOCKED and not self._function.config.bus_master:
            return f"{event}; `write config 4 6 2` turns it on"
        return str(event)

    def registers(self) -> str:
        """Return the registers of the control BAR by name."""
        vendor, device = self._identity()
        if self._function is None and (vendor, device) != (regs.VENDOR_ID, regs.DEVICE_ID):
            raise HarnessError(f"registers: {vendor:04x}:{device:04x} is not the IMS function")
        lines = []
        for register in Register:
            if register < Register.IMS_PENDING:
                raw = self.client.region_read(regs.BAR_CONTROL, register, 4)
                fields = ""
                if layout := _LAYOUTS.get(register):
                    fields = "".join(f" {name}={value}" for name, value in layout.unpack(raw))
                value = int.from_bytes(raw, "little")
                lines.append(f"{register:04x} {register.name:<14} {value:#010x}{fields}")
        words = range(Register.IMS_PENDING, Register.IMS_PENDING + regs.IMS_PENDING_SIZE, 4)
        raw = b"".join(self.client.region_read(regs.BAR_CONTROL, at, 4) for at in words)
        bits = int.from_bytes(raw, "little")
        pending = ", ".join(str(bit) for bit in range(regs.IMS_ENTRIES) if bits >> bit & 1)
        name = Register.IMS_PENDING.name
        lines.append(f"{Register.IMS_PENDING:04x} {name:<14} {pending or 'none'}")
        return "\n".join(lines)

    def reset(self) -> None:
        """Reset the device."""
        self.client.reset()

    def wait(self, seconds: str = "10") -> str:
        """Wait until a message or a signal has arrived since the last wait, and return it.

        What a device sends may be here before the wait begins, and be shown already.

        :raises DeadlineExpired: none did.
        """
        deadline = Deadline(_number(seconds, bits=16), "a message or a signal")
        poll = select.poll()
        for fd in (*self._eventfds.values(), self._message_came):
            poll.register(fd, select.POLLIN)
        said = list(self.arrivals())
        while not self._has_arrived:
            if not poll.poll(deadline.remaining() * 1000):
                raise deadline.error()
            said = list(self.arrivals())
        self._has_arrived = False
        return "\n".join(said)

    def help(self) -> str:
        """Return the list of commands."""
        width = max(len(command.usage) for command in COMMANDS.values())
        lines = [f"{command.usage:<{width}}  {command.help}" for command in COMMANDS.values()]
        for what, known in (("REGION", [*_REGIONS, _DMA]), ("INDEX", _IRQS), ("STORE", _STORES)):
            lines.append(f"{what}: {', '.join(known)}")
        return "\n".join(lines)

    # What they share.

    def _identity(self) -> tuple[int, int]:
        raw = self.client.region_read(RegionIndex.CONFIG, Header.VENDOR_ID, 4)
        return int.from_bytes(raw[:2], "little"), int.from_bytes(raw[2:], "little")

    def _locate(self, address: int, count: int) -> tuple[mmap.mmap, int]:
        for start, memory in self._memory.items():
            if start <= address and address + count <= start + len(memory):
                return memory, address - start
        raise ConfigError(f"dma: no memory was mapped at {address:#x}+{count:#x}")

    def _wires(self, index: IrqIndexNumber, start: int, count: int) -> list[int]:
        for vector in range(start, start + count):
            if (index, vector) not in self._eventfds:
                fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                self._eventfds[index, vector] = fd
        return [self._eventfds[index, vector] for vector in range(start, start + count)]


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its usage is also its grammar, with what may be left out in brackets."""

    usage: str
    help: str
    call: Callable[..., str | None]

    def takes(self, words: int) -> bool:
        """Whether it can be called with so many words."""
        given = self.usage.split()[1:]
        return sum(not word.startswith("[") for word in given) <= words <= len(given)


COMMANDS: Final = {
    command.usage.split()[0]: command
    for command in (
        Command("info", "regions and interrupts of the device", Bench.info),
        Command("read REGION OFFSET [SIZE]", "print SIZE bytes (4)", Bench.read),
        Command("write REGION OFFSET VALUE [SIZE]", "write SIZE bytes (4)", Bench.write),
        Command("map ADDRESS SIZE", "give the device memory: the region dma", Bench.map),
        Command(
            "irq INDEX VECTOR[-LAST] ACTION",
            "eventfd, off, mask, unmask or trigger",
            Bench.irq,
        ),
        Command("raise STORE INDEX", "have our own device raise it", Bench.raise_interrupt),
        Command("registers", "the control BAR by name", Bench.registers),
        Command("reset", "reset the device", Bench.reset),
        Command(
            "wait [SECONDS]",
            "until something has arrived since the last wait (10)",
            Bench.wait,
        ),
        Command("help", "list the commands", Bench.help),
    )
}


def _number(word: str, *, bits: int = 64) -> int:
    """Return a number in C notation: 16, 0x10 or 020."""
    if not re.fullmatch(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*", word):
        raise ConfigError(f"{word!r} is not a number in C notation (16, 0x10, 020)")
    number = int(word, 16 if word[:2] in ("0x", "0X") else 8 if word[0] == "0" else 10)
    if number >> bits:
        raise ConfigError(f"{word} does not fit into {bits} bits")
    return number


def _describe(message: Message) -> str:
    """Return what an interrupt message says."""
    said = message.decode()
    if isinstance(said, RemappableMessage):
        return f"interrupt message, remappable: IRTE {said.index}"
    modes = {mode.value: mode.name.lower() for mode in DeliveryMode}
    mode = modes.get(said.delivery_mode, f"mode {said.delivery_mode}")
    return (
        f"interrupt message, compatibility: APIC id {said.destination}, "
        f"vector {said.vector:#x}, {mode}"
    )


def _dump(data: bytes, start: int) -> str:
    rows = (
        f"{start + at:08x}  {data[at : at + 16].hex(' ', -4)}" for at in range(0, len(data), 16)
    )
    return "\n".join(rows)


def _name_of(known: Mapping[str, int], number: int) -> str:
    return next((name for name, value in known.items() if value == number), str(number))


def _flag_names(flags: RegionFlags | IrqInfoFlags) -> str:
    return " ".join(str(flag.name).lower() for flag in flags) or "no flags"
