"""A function of a running kernel as lines in which a place can be recognised.

Text is as it stands in memory: patched by the kernel for this processor, so not what a file has.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from harness.guest.symbols import Function, Symbols

ENTRY_BYTES: Final = 8
"""How much of a function counts as its entry; see :attr:`Kind.ENTRY`."""

_ENDBR64: Final = bytes.fromhex("f30f1efa")
_ADDRESSES: Final = (1 << 64) - 1


class Kind(enum.Enum):
    """What a line is, as far as changing it depends on that."""

    ENTRY = "entry"
    """The first bytes of a function, behind the mark for indirect calls (ENDBR64)."""
    CALL = "call"
    TAIL_CALL = "tail call"
    """A jump to where another function begins; the stack is as it was at the entry."""
    BRANCH = "branch"
    """A conditional jump."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An instruction, or a function's entry."""

    function: str
    """Symbol of the function that it is in."""
    offset: int
    address: int
    code: bytes
    kind: Kind
    text: str
    """``or byte ptr [r14 + 0x10], 8``; jumps into the function itself have an absolute address."""
    targets: frozenset[str] = frozenset()
    """What a call or a tail call leads to: every name of it in the source."""
    immediate: slice | None = None
    """Where in ``code`` an immediate operand stands."""

    def __str__(self) -> str:
        target = f" ({'/'.join(sorted(self.targets))})" if self.targets else ""
        return f"{self.function}+{self.offset:#x}: {self.text}{target}"


def disassemble(function: Function, code: bytes, symbols: Symbols) -> list[Line]:
    """Return the lines of a function, its entry first if it has one.

    What does not disassemble ends it: the padding behind the last instruction.
    """
    instructions = _instructions(function, code, symbols)
    if function.symbol.endswith(".cold"):  # split off: it is jumped into, and returns to no caller
        return [*instructions]
    entry = len(_ENDBR64) if code.startswith(_ENDBR64) else 0
    first = Line(
        function=function.symbol,
        offset=entry,
        address=function.address + entry,
        code=code[entry : entry + ENTRY_BYTES],
        kind=Kind.ENTRY,
        text="entry",
    )
    return [first, *instructions]


def _instructions(function: Function, code: bytes, symbols: Symbols) -> Iterator[Line]:
    # Here, because every run of the tests imports this module, and few disassemble.
    from capstone import CS_ARCH_X86, CS_MODE_64, Cs
    from capstone.x86 import X86_OP_IMM

    disassembler = Cs(CS_ARCH_X86, CS_MODE_64)
    disassembler.detail = True
    for found in disassembler.disasm(code, function.address):
        immediate = None
        target = 0
        if found.operands and (last := found.operands[-1]).type == X86_OP_IMM:
            target = last.imm & _ADDRESSES
            if found.imm_size:
                immediate = slice(found.imm_offset, found.imm_offset + found.imm_size)
        kind, targets = Kind.OTHER, frozenset[str]()
        if found.mnemonic == "call":
            kind, targets = Kind.CALL, symbols.names_at(target)
        elif found.mnemonic == "jmp":
            if targets := symbols.names_at(target):
                kind = Kind.TAIL_CALL
        elif found.mnemonic.startswith("j"):
            kind = Kind.BRANCH
        yield Line(
            function=function.symbol,
            offset=found.address - function.address,
            address=found.address,
            code=bytes(found.bytes),
            kind=kind,
            text=f"{found.mnemonic} {found.op_str}".rstrip(),
            targets=targets,
            immediate=immediate,
        )
