"""The register bank: named dwords and nothing else."""

from __future__ import annotations

import pytest

from harness.pci.registers import RegisterBank, RegisterCell


class Value:
    """A register's value that remembers what was written."""

    def __init__(self) -> None:
        self.value = 0x11223344

    def read(self) -> int:
        return self.value

    def write(self, value: int) -> bool:
        self.value = value
        return value != 0


@pytest.fixture
def value() -> Value:
    return Value()


@pytest.fixture
def bank(value: Value) -> RegisterBank:
    return RegisterBank(
        [
            RegisterCell(0x10, "RW", value.read, value.write, writable=0xFF),
            RegisterCell(0x14, "RO", value.read),
        ]
    )


def test_a_register_is_read_in_little_endian_order(bank: RegisterBank) -> None:
    assert bank.read(0x10, 4) == bytes.fromhex("44332211")


def test_only_writable_bits_reach_the_register(bank: RegisterBank, value: Value) -> None:
    assert bank.write(0x10, b"\xff" * 4)
    assert value.value == 0xFF


def test_a_register_can_refuse_what_is_written(bank: RegisterBank) -> None:
    assert not bank.write(0x10, bytes(4))


def test_a_read_only_register_refuses_writes(bank: RegisterBank, value: Value) -> None:
    assert not bank.write(0x14, b"\xff" * 4)
    assert value.value == 0x11223344


@pytest.mark.parametrize(
    ("offset", "size"), [(0x10, 1), (0x10, 2), (0x12, 4), (0x10, 8), (0x18, 4)]
)
def test_nothing_but_whole_registers_can_be_accessed(
    bank: RegisterBank, offset: int, size: int
) -> None:
    assert bank.read(offset, size) is None
    assert not bank.write(offset, b"\x01" * size)


@pytest.mark.parametrize("offset", [0x10, 0x12])
def test_cells_that_overlap_or_are_misaligned_are_refused(value: Value, offset: int) -> None:
    with pytest.raises(ValueError, match="NEW cannot stand"):
        RegisterBank(
            [RegisterCell(0x10, "RW", value.read), RegisterCell(offset, "NEW", value.read)]
        )
