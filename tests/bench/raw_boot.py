# Ref: System V ABI, AMD64 supplement, and ELF-64 Object File Format, version 1.5: file and program
#      headers; Linux arch/x86/entry/syscalls/syscall_64.tbl: write 1, pause 34
"""The shortest way to a guest's first process: plain QEMU, the kernel, and an init of 171 bytes.

This is what the harness's own boot is held against, so nothing of its machinery is in the way: no
monitor, no memory file, no module, no shell. Only the machine's arguments are the same.
"""

from __future__ import annotations

import os
import select
import struct
import subprocess
import time
from pathlib import Path
from typing import Final

from harness.build.qemu import QemuBinary
from harness.errors import LaunchError
from harness.host.cpio import Entry, archive
from harness.host.deadline import Deadline
from harness.host.process import dying_with_parent, tail
from harness.qemu import command
from harness.qemu.command import MachineSpec, Wiring

LINE: Final = b"raw boot: init runs\n"
BOOT_SECONDS: Final = 60.0

_ELF_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
_BASE: Final = 0x400000


def tiny_init(line: bytes) -> bytes:
    """Return a program (ELF, x86-64, static) that writes ``line`` to its standard output and stays.

    It costs the guest one system call: no loader, no library, no shell.
    """
    # fmt: off
    code = (
        b"\xb8" + struct.pack("<I", 1)              # mov  eax, 1 (write)
        + b"\xbf" + struct.pack("<I", 1)            # mov  edi, 1
        + b"\x48\x8d\x35" + struct.pack("<i", 14)   # lea  rsi, [rip + 14]: behind the code
        + b"\xba" + struct.pack("<I", len(line))    # mov  edx, len(line)
        + b"\x0f\x05"                               # syscall
        + b"\xb8" + struct.pack("<I", 34)           # mov  eax, 34 (pause)
        + b"\x0f\x05"                               # syscall: no signal ends it in process 1
    )
    start = _ELF_HEADER.size + _PROGRAM_HEADER.size
    size = start + len(code) + len(line)
    header = _ELF_HEADER.pack(
        b"\x7fELF\2\1\1".ljust(16, b"\0"),          # 64 bit, little-endian, version 1
        2, 62, 1, _BASE + start,                    # executable, x86-64, version, entry
        _ELF_HEADER.size, 0, 0,                     # program headers, no sections, flags
        _ELF_HEADER.size, _PROGRAM_HEADER.size, 1,
        0, 0, 0,
    )
    segment = _PROGRAM_HEADER.pack(1, 5, 0, _BASE, _BASE, size, size, 0x1000)  # loaded, read + run
    # fmt: on
    return header + segment + code + line


def write_initramfs(path: Path) -> None:
    """Write an initramfs that holds :func:`tiny_init` and the console that it writes to."""
    entries = [
        Entry.directory("dev"),
        Entry.character_device("dev/console", 5, 1),
        Entry.file("init", tiny_init(LINE), 0o755),
    ]
    path.write_bytes(archive(entries))


def raw_boot(qemu: QemuBinary, spec: MachineSpec, *, kernel: Path, initramfs: Path) -> float:
    """Boot and return the seconds from QEMU's start to the line of init on the serial console.

    :raises LaunchError: QEMU ended; carries what it and the guest printed.
    :raises DeadlineExpired: init did not run in time; carries the same.
    """
    options = command.options(spec, Wiring(kernel=str(kernel), initrd=str(initramfs)))
    argv = dying_with_parent(command.argv(qemu.argv, options))
    deadline = Deadline(BOOT_SECONDS, "init in a raw boot")
    seen = bytearray()
    start = time.monotonic()
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        try:
            # A terminal driver stands between: the line ends in "\r\n".
            while LINE.rstrip() not in seen[-4096:]:
                text = tail(seen.decode(errors="replace"))
                if not select.select([process.stdout], [], [], deadline.check(text))[0]:
                    continue
                if not (data := os.read(process.stdout.fileno(), 1 << 16)):
                    raise LaunchError("QEMU ended in a raw boot", evidence=text)
                seen += data
            return time.monotonic() - start
        finally:
            process.kill()
