"""Layouts: what a declaration promises and what it refuses."""

from __future__ import annotations

import pytest

from harness.spec.bitfield import Bits, Layout, Reserved


class Sample(Layout, bits=16):
    low = Bits(3, 0)
    flag = Bits(4)
    reserved = Reserved((7, 5))
    high = Bits(15, 8)


def test_fields_stand_where_the_document_says() -> None:
    sample = Sample(low=0x5, flag=1, high=0xAB)
    assert sample.value == 0xAB15
    assert sample.pack() == b"\x15\xab"
    assert (sample.low, sample.flag, sample.high) == (5, 1, 0xAB)


def test_reserved_bits_stay_visible_in_place() -> None:
    assert Sample.unpack(0x0060).reserved == 0x60
    assert Sample.unpack(0xFF1F).reserved == 0


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"low\[3:0\] cannot hold 0x10"):
        Sample(low=0x10)
    with pytest.raises(ValueError, match="cannot hold 0x10000"):
        Sample.unpack(0x10000)
    with pytest.raises(ValueError, match="is 2 bytes, not 3"):
        Sample.unpack(b"\0\0\0")


def test_replace_changes_one_field_and_keeps_reserved_bits() -> None:
    assert Sample.unpack(0xAB75).replace(low=0).value == 0xAB70


def test_overlap_gap_and_overflow_are_definition_errors() -> None:
    with pytest.raises(TypeError, match="overlaps"):
        type("L", (Layout,), {"a": Bits(3, 0), "b": Bits(7, 3)}, bits=8)
    with pytest.raises(TypeError, match="leaves a gap"):
        type("L", (Layout,), {"a": Bits(3, 0), "b": Bits(7, 5)}, bits=8)
    with pytest.raises(TypeError, match="names 9 bits of 8"):
        type("L", (Layout,), {"a": Bits(8, 0)}, bits=8)
