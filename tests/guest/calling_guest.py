"""A real guest without a driver of the vIRTE call: a program in it makes the calls, as root can."""

from __future__ import annotations

import struct
from dataclasses import fields

from harness.hypervisor.policy import Policy
from harness.spec.hypercall import (
    BAR_DOORBELLS,
    BAR_FRAMES,
    BAR_REGISTERS,
    CallRequest,
    EntryAnswer,
    EntryRequest,
    Register,
    entry_offset,
)
from harness.testbed.vm import Vm
from tests.guest import devmem
from tests.guest.support import Virte
from tests.unit.hypercall_guest import Guest


class CallingGuest(Guest):
    """Its calls are written into frame 0, made and read in the guest.

    Its messages are the model's: a guest whose kernel asked for none of these vectors is spared
    them.

    :param virte: the function of the call, whose driver is unbound.
    """

    def __init__(self, vm: Vm, virte: Virte):
        self._vm = vm
        self.partition = virte.model.partition
        self.host, self.policy = self.partition.host, self.partition.policy
        virte.model.senders = None  # its functions are the model's as well: QEMU knows none of them
        vm.ssh.run(f"echo 1 >/sys/bus/pci/devices/{virte.slot}/enable")
        self._frame = virte.bar_address(BAR_FRAMES)
        self._call = virte.bar_address(BAR_REGISTERS) + Register.CALL
        self._doorbells = virte.bar_address(BAR_DOORBELLS)

    def begin(self, policy: Policy) -> None:
        """Hold nothing, under a host that decides so."""
        self.partition.reset()
        for field in fields(Policy):
            setattr(self.policy, field.name, getattr(policy, field.name))

    def carried_out(self, frame: bytes) -> bytes:
        """Return a frame after the call in it: what is not the caller's to write was read back."""
        requests = [range(CallRequest.SIZE)]
        answers = [range(CallRequest.SIZE, entry_offset(0))]
        for at in range(entry_offset(0), len(frame), EntryRequest.SIZE + EntryAnswer.SIZE):
            requests.append(range(at, at + EntryRequest.SIZE))
            answers.append(range(at + EntryRequest.SIZE, at + EntryRequest.SIZE + EntryAnswer.SIZE))
        written = [at for part in requests for at in part[::4]]
        read = [at for part in answers for at in part[::4]]
        commands = [
            *devmem.write({self._frame + at: _dword(frame, at) for at in written}),
            f"{devmem.read(self._call)} >/dev/null",
            *(devmem.read(self._frame + at) for at in read),
        ]
        said = self._vm.ssh.run("; ".join(commands)).stdout.split()
        whole = bytearray(frame)
        for at, value in zip(read, said, strict=True):
            struct.pack_into("<I", whole, at, int(value, 16))
        return bytes(whole)

    def place(self, pair: EntryAnswer) -> int:
        """Return where among the doorbells a pair's address is."""
        return pair.address - self._doorbells


def _dword(frame: bytes, at: int) -> int:
    return int.from_bytes(frame[at : at + 4], "little")
