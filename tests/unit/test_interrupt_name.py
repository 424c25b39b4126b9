"""The name of an interrupt: one value, whoever says it."""

from __future__ import annotations

import pytest

from harness.spec.interrupt import InterruptName, Store
from harness.spec.pci import RequesterId


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (InterruptName(Store.IMS, 5), "IMS 5"),
        (InterruptName(Store.MSIX, 0, RequesterId.of(1)), "MSIX 0 of 01:00.0"),
        (InterruptName(Store.IMS, 5, queue=2, pasid=9), "IMS 5 queue 2 PASID 9"),
    ],
)
def test_a_name_reads_as_what_it_names(name: InterruptName, text: str) -> None:
    assert str(name) == text


def test_names_differ_in_each_of_their_parts() -> None:
    names = [
        InterruptName(Store.IMS, 1),
        InterruptName(Store.MSIX, 1),
        InterruptName(Store.IMS, 2),
        InterruptName(Store.IMS, 1, RequesterId.of(1)),
        InterruptName(Store.IMS, 1, queue=0),
        InterruptName(Store.IMS, 1, pasid=0),
    ]
    assert len(set(names)) == len(names)
    assert InterruptName(Store.IMS, 1) == names[0]
