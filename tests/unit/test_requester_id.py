"""Requester ids, as numbers and as Linux prints them."""

from __future__ import annotations

import pytest

from harness.spec.pci import RequesterId


@pytest.mark.parametrize(
    ("number", "place", "text"),
    [
        (0x0100, (1, 0, 0), "01:00.0"),
        (0x0019, (0, 3, 1), "00:03.1"),
        (0xFFFF, (0xFF, 0x1F, 7), "ff:1f.7"),
    ],
)
def test_number_place_and_text_are_one_id(
    number: int, place: tuple[int, int, int], text: str
) -> None:
    requester = RequesterId.of(*place)
    assert requester == number
    assert (requester.bus, requester.device, requester.function) == place
    assert str(requester) == f"{requester}" == text
    assert requester.slot == f"0000:{text}"
    assert RequesterId.parse(text) == RequesterId.parse(requester.slot) == requester


@pytest.mark.parametrize("text", ["", "1:00.0", "01:20.0", "01:00.8", "0001:01:00.0", "01:00.0\n"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a PCI address"):
        RequesterId.parse(text)


@pytest.mark.parametrize("number", [-1, 0x10000])
def test_what_is_no_id_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="no requester id"):
        RequesterId(number)
