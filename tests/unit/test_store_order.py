"""Row G2 as data: each way to access a store in the wrong order, one at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from harness.pci.message_table import CONTROL_OFFSET, MASK_BIT
from harness.pci.store_order import Disorder, Returned, StoreAccess, out_of_order
from harness.spec.interrupt import Store
from harness.spec.pci import MsixControl

ON = MsixControl(enable=1).value
MASKED_WHOLE = MsixControl(enable=1, function_mask=1).value


class Driver:
    """Writes down what a driver does to a store, one access after the other."""

    def __init__(self, store: Store):
        self.store = store
        self.happened: list[StoreAccess | Returned] = []
        self._when = itertools.count()

    def _access(
        self, index: int | None, offset: int, value: int, *, write: bool, size: int
    ) -> None:
        access = StoreAccess(
            next(self._when), self.store, f"at {offset}", index, offset, size, value, write
        )
        self.happened.append(access)

    def write(self, offset: int, value: int = 0, index: int = 0, size: int = 4) -> None:
        self._access(index, offset, value, write=True, size=size)

    def read(self, index: int = 0) -> None:
        self._access(index, 0, 0, write=False, size=4)

    def message(self, *offsets: int) -> None:
        for offset in offsets or (0, 4, 8):
            self.write(offset)

    def mask(self) -> None:
        self.write(CONTROL_OFFSET, MASK_BIT)

    def unmask(self) -> None:
        self.write(CONTROL_OFFSET, 0)

    def control(self, value: int) -> None:
        self._access(None, 2, value, write=True, size=2)

    def returns(self) -> None:
        self.happened.append(Returned(next(self._when), "free"))

    def found(self) -> list[Disorder]:
        return [item.disorder for item in out_of_order(self.happened, self.store)]


@pytest.fixture
def ims() -> Driver:
    return Driver(Store.IMS)


@pytest.fixture
def live(ims: Driver) -> Driver:
    """A driver that has set an entry up as it should."""
    ims.message()
    ims.unmask()
    ims.returns()
    return ims


def test_a_life_in_order_is_sound(live: Driver) -> None:
    live.mask()
    live.read()
    live.message()
    live.unmask()
    live.mask()
    live.read()
    live.returns()
    assert live.found() == []


@pytest.mark.parametrize("offset", [0, 4, 8])
def test_a_message_that_is_changed_live_is_found(live: Driver, offset: int) -> None:
    live.write(offset)
    assert live.found() == [Disorder.CHANGED_LIVE]


def test_a_quadword_over_data_and_mask_changes_a_live_message(live: Driver) -> None:
    live.write(8, MASK_BIT << 32, size=8)
    live.read()
    assert live.found() == [Disorder.CHANGED_LIVE]


@pytest.mark.parametrize("written", [(), (0,), (8,), (0, 4), (0, 8)])
def test_an_unmask_before_the_whole_message_is_found(ims: Driver, written: Sequence[int]) -> None:
    for offset in written:
        ims.write(offset)
    ims.unmask()
    assert ims.found() == [Disorder.HALF_A_MESSAGE]


@pytest.mark.parametrize("written", [(0,), (8,)])
def test_a_later_change_of_half_a_message_is_found(live: Driver, written: Sequence[int]) -> None:
    live.mask()
    live.read()
    live.message(*written)
    live.unmask()
    assert live.found() == [Disorder.HALF_A_MESSAGE]


def test_a_mask_that_is_not_read_back_is_found_when_the_operation_returns(live: Driver) -> None:
    live.mask()
    assert live.found() == []
    live.returns()
    assert live.found() == [Disorder.MASK_NOT_READ_BACK]
    live.returns()
    assert live.found() == [Disorder.MASK_NOT_READ_BACK]  # once


def test_a_mask_that_was_taken_back_needs_no_read(live: Driver) -> None:
    live.mask()
    live.message()
    live.unmask()
    live.returns()
    assert live.found() == []


def test_any_entry_that_is_read_flushes_a_mask(live: Driver) -> None:
    live.mask()
    live.read(index=5)
    live.returns()
    assert live.found() == []


def test_what_comes_in_one_quadword_is_in_order(ims: Driver) -> None:
    ims.write(0, size=8)
    ims.write(8, size=8)
    assert ims.found() == []


# MSI-X as a whole: Enable and Function Mask.


def test_an_entry_is_not_live_while_msix_is_off_or_masked_whole() -> None:
    msix = Driver(Store.MSIX)
    msix.control(MASKED_WHOLE)
    msix.message()
    msix.unmask()
    msix.message()
    msix.control(ON)
    assert msix.found() == []
    msix.write(8)
    assert msix.found() == [Disorder.CHANGED_LIVE]


def test_the_function_mask_lets_no_half_message_out() -> None:
    msix = Driver(Store.MSIX)
    msix.write(0)
    msix.unmask()
    assert msix.found() == []
    msix.control(ON)
    assert msix.found() == [Disorder.HALF_A_MESSAGE]


def test_what_is_found_names_interrupt_and_access(live: Driver) -> None:
    live.write(8, 0x41)
    (found,) = out_of_order(live.happened, Store.IMS)
    assert str(found) == "IMS 0: the message is changed while the entry is live: at 8 <- 0x41"
