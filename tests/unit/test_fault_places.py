"""Places in kernel text, and what is put there: on code assembled by hand."""

from __future__ import annotations

import pytest

from harness.errors import HarnessError
from harness.faults.change import Change, altered, always, answer, immediate, narrowed, never, skip
from harness.faults.code import Kind, Line, disassemble
from harness.faults.place import Place, call_of, entry_of, instruction
from harness.guest.symbols import Function, Symbols

AT = 0xFFFF_FFFF_8100_0000
CODE = bytes.fromhex(
    "f30f1efa"  # 00 endbr64
    "e8f7000000"  # 04 call callee (100h)
    "85c0"  # 09 test eax, eax
    "7405"  # 0b je 12h
    "e8ee000000"  # 0d call callee
    "0f8400000000"  # 12 je 18h
    "41804e1008"  # 18 or byte ptr [r14 + 10h], 8
    "488907"  # 1d mov qword ptr [rdi], rax
    "488907"  # 20 mov qword ptr [rdi], rax
    "e9d8000000"  # 23 jmp callee
    "894514"  # 28 mov dword ptr [rbp + 14h], eax
)
SYMBOLS = Symbols(
    f"{AT:016x} t caller.isra.0\n{AT + 0x100:016x} T callee\n{AT + 0x100:016x} T alias\n"
)


def lines(code: bytes = CODE, symbol: str = "caller.isra.0") -> list[Line]:
    return disassemble(Function(symbol, AT, len(code)), code, SYMBOLS)


def offsets(place: Place) -> list[int]:
    return [line.offset for line in place.find(lines())]


def test_a_call_is_found_by_any_name_of_what_is_called_tail_calls_too() -> None:
    assert offsets(call_of("callee", within="caller")) == [0x04, 0x0D, 0x23]
    assert offsets(call_of("alias", within="caller")) == [0x04, 0x0D, 0x23]
    assert offsets(call_of("another", within="caller")) == []


def test_an_instruction_is_found_by_its_whole_text() -> None:
    assert offsets(instruction(r"or byte ptr \[\w+ \+ 0x1[08]\], 8", within="caller")) == [0x18]
    assert offsets(instruction(r"or byte ptr", within="caller")) == []


def test_behind_an_anchor_only_the_next_one_is_meant() -> None:
    store = r"mov qword ptr \[\w+\], \w+"
    assert offsets(instruction(store, within="caller")) == [0x1D, 0x20]
    assert offsets(instruction(store, within="caller", behind="callee")) == [0x1D]
    assert offsets(instruction(store, within="caller", behind=r"or .*")) == [0x1D]
    assert offsets(instruction(store, within="caller", behind="another")) == []
    assert offsets(call_of("callee", within="caller", behind=r"test \w+, \w+")) == [0x0D]


def test_the_entry_is_behind_the_mark_for_indirect_calls_and_a_cold_part_has_none() -> None:
    assert offsets(entry_of("caller")) == [4]
    assert [line.offset for line in entry_of("caller").find(lines(CODE[4:]))] == [0]
    assert entry_of("caller").find(lines(symbol="caller.cold")) == []


def line_at(offset: int, kind: Kind = Kind.OTHER) -> Line:
    found = [line for line in lines() if line.offset == offset]
    return next((line for line in found if line.kind is kind), found[-1])


@pytest.mark.parametrize(
    ("line", "change", "code"),
    [
        (line_at(0x0D), skip, "9090909090"),
        (line_at(0x23), skip, "c390909090"),
        (line_at(0x0D), answer(-1), "6aff589090"),  # push -1; pop rax
        (line_at(0x23), answer(0), "6a0058c390"),  # push 0; pop rax; ret
        (line_at(0x04, Kind.ENTRY), answer(1), "6a0158c30085c074"),
        (line_at(0x04, Kind.ENTRY), skip, "c3f700000085c074"),
        (line_at(0x1D), skip, "909090"),
        (line_at(0x18), immediate(0x18), "41804e1018"),
        (line_at(0x0B), never, "9090"),
        (line_at(0x0B), always, "eb05"),
        (line_at(0x12), always, "90e900000000"),
        (line_at(0x28), narrowed, "884514"),  # mov byte ptr [rbp + 14h], al
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_change_takes_as_much_room_as_the_line_has(line: Line, change: Change, code: str) -> None:
    assert altered(change, line).hex() == code


@pytest.mark.parametrize(
    ("line", "change", "what"),
    [
        (line_at(0x1D), immediate(1), "no immediate"),
        (line_at(0x0D), always, "no branch"),
        (line_at(0x1D), narrowed, "stores no 32 bits"),
        (line_at(0x09), answer(0), "do not fit"),
    ],
    ids=["immediate", "branch", "store", "room"],
)
def test_a_change_that_cannot_be_is_refused(line: Line, change: Change, what: str) -> None:
    with pytest.raises(HarnessError, match=what):
        altered(change, line)


def test_an_answer_is_a_signed_byte() -> None:
    with pytest.raises(ValueError, match="128"):
        answer(128)
