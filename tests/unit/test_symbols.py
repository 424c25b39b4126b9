"""The symbols of a running kernel."""

from __future__ import annotations

import pytest

from harness.guest.symbols import Function, parse_symbols

KALLSYMS = """\
ffffffff81000000 T _text
ffffffff81000020 t modify_irte.isra.0
ffffffff81000100 T qi_submit_sync
ffffffff81000100 T an_alias
ffffffff81000140 D a_variable
ffffffff81000180 t modify_irte.cold
ffffffffc0300000 t imstest_ims_mask\t[imstest]
"""


def test_a_function_is_found_by_its_name_in_the_source_whatever_the_compiler_added() -> None:
    assert parse_symbols(KALLSYMS).functions("modify_irte") == [
        Function("modify_irte.isra.0", 0xFFFFFFFF81000020, 0xE0),
        Function("modify_irte.cold", 0xFFFFFFFF81000180, 0xFFFFFFFFC0300000 - 0xFFFFFFFF81000180),
    ]


def test_a_function_ends_at_the_next_symbol_of_any_kind() -> None:
    (found,) = parse_symbols(KALLSYMS).functions("an_alias")
    assert found.size == 0x40


def test_an_address_has_every_name_of_what_begins_there_and_none_in_between() -> None:
    symbols = parse_symbols(KALLSYMS)
    assert symbols.names_at(0xFFFFFFFF81000100) == {"qi_submit_sync", "an_alias"}
    assert symbols.names_at(0xFFFFFFFF81000101) == set()


def test_a_module_has_its_symbols_among_them_and_a_variable_is_no_function() -> None:
    symbols = parse_symbols(KALLSYMS)
    assert symbols.functions("imstest_ims_mask")
    assert not symbols.functions("a_variable")
    assert not symbols.functions("modify")


@pytest.mark.parametrize(
    "text",
    ["0000000000000000 T _text\n0000000000000000 t modify_irte\n", "", "no such file\n", "f00\n"],
)
def test_a_text_that_hides_the_addresses_or_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_symbols(text)
