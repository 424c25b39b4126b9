"""The table of faults: what it names is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.faults import table
from harness.faults.fault import Fault
from harness.faults.seed import Replacement
from harness.faults.table import FAULTS, choose_fault
from harness.report.capabilities import capability_rows

TESTS = Path(__file__).parents[1] / "guest"

each_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=lambda fault: fault.name)


def test_no_name_stands_twice() -> None:
    lists = [getattr(table, name) for name in vars(table) if name.endswith("_FAULTS")]
    assert sum(map(len, lists)) == len(FAULTS)


@each_fault
def test_its_rows_and_its_tests_are_there(fault: Fault) -> None:
    assert set(fault.rows) <= set(capability_rows())
    claims = ""
    for test in fault.tests:
        file, _, function = test.partition("::")
        text = (TESTS / file).read_text()
        assert f"def {function}" in text
        claims += text
    assert any(f'"{row}"' in claims for row in fault.rows), "none of its tests claims a row of it"


@each_fault
def test_a_method_that_is_replaced_is_the_classes_own(fault: Fault) -> None:
    if isinstance(fault.seed, Replacement):
        assert fault.seed.method in vars(fault.seed.owner)


def test_a_name_with_a_typo_is_an_error_that_says_which_there_are() -> None:
    with pytest.raises(ConfigError, match="irte-half-written"):
        choose_fault("irte-halfwritten")
