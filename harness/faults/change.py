# Ref: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2 (encodings)
"""What is done to a line of kernel text: bytes that take no more room than it has."""

from __future__ import annotations

from collections.abc import Callable

from harness.errors import HarnessError
from harness.faults.code import Kind, Line

Change = Callable[[Line], bytes]
"""Returns what stands there instead; shorter than the line: the rest is filled with no-ops."""

_NOP = b"\x90"
_RET = b"\xc3"
_STORE_32 = b"\x89"  # MOV r/m32, r32
_STORE_8 = b"\x88"  # MOV r/m8, r8


def skip(line: Line) -> bytes:
    """Do nothing there; a function or a tail call returns at once, whatever is in EAX."""
    return _RET if line.kind in (Kind.ENTRY, Kind.TAIL_CALL) else b""


def answer(value: int) -> Change:
    """Return the change that makes a call, or a whole function, answer a number in EAX or RAX."""
    if not -0x80 <= value < 0x80:
        raise ValueError(f"{value} is no signed byte")
    push_pop = bytes([0x6A, value & 0xFF, 0x58])  # PUSH imm8; POP RAX

    def change(line: Line) -> bytes:
        return push_pop + skip(line)

    return change


def never(line: Line) -> bytes:
    """Do not take a conditional jump."""
    _require(line, Kind.BRANCH, "never taken")
    return b""


def always(line: Line) -> bytes:
    """Take a conditional jump whatever the condition."""
    _require(line, Kind.BRANCH, "always taken")
    if (
        line.code[0] == 0x0F
    ):  # Jcc rel32: JMP rel32 is a byte shorter, and ends as late behind a NOP
        return _NOP + b"\xe9" + line.code[2:]
    return b"\xeb" + line.code[1:]


def immediate(value: int) -> Change:
    """Return the change that gives an instruction another immediate operand."""

    def change(line: Line) -> bytes:
        if line.immediate is None:
            raise HarnessError(f"{line}: has no immediate operand")
        code = bytearray(line.code)
        size = line.immediate.stop - line.immediate.start
        code[line.immediate] = (value % (1 << 8 * size)).to_bytes(size, "little")
        return bytes(code)

    return change


def narrowed(line: Line) -> bytes:
    """Store the low byte of a register only, where 32 bits of it are stored."""
    if not line.code.startswith(_STORE_32):
        raise HarnessError(f"{line}: stores no 32 bits of a register that has a low byte")
    return _STORE_8 + line.code[1:]


def altered(change: Change, line: Line) -> bytes:
    """Return a line's code after a change, as long as it was.

    :raises HarnessError: the change does not fit.
    """
    code = change(line)
    if len(code) > len(line.code):
        raise HarnessError(f"{line}: {len(code)} bytes do not fit into {len(line.code)}")
    # What is left of an entry is not reached.
    return code + (line.code[len(code) :] if line.kind is Kind.ENTRY else _fill(line, code))


def _fill(line: Line, code: bytes) -> bytes:
    return _NOP * (len(line.code) - len(code))


def _require(line: Line, kind: Kind, what: str) -> None:
    if line.kind is not kind:
        raise HarnessError(f"{line}: cannot be {what}, it is no {kind.value}")
