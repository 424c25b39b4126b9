"""Row A3: the set of MSI-X vectors grows and shrinks while others are live."""

from __future__ import annotations

import errno

import pytest

from harness.guest.control import ControlError
from harness.guest.function_control import ANY
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store
from harness.spec.vfio import IrqIndexNumber
from harness.testbed.plugged import PluggedFunction
from harness.vfio_user.transcript import Exchanged
from tests.guest.support import deliver

pytestmark = pytest.mark.shared_vm("module")

LIVE = 4
ALL = 9
LOAD = 1500
"""Interrupts on the live vectors, at least, while the others come and go."""


@pytest.mark.capability("A3")
@pytest.mark.parametrize(
    "resizable",
    [
        pytest.param(True, marks=pytest.mark.device(msix_noresize=False), id="resized"),
        pytest.param(False, marks=pytest.mark.device(msix_noresize=True), id="started-again"),
    ],
)
def test_vectors_come_and_go_beside_live_ones_and_nothing_is_lost(
    ims_device: PluggedFunction, resizable: bool
) -> None:
    guest = ims_device.control
    ims_device.set_up(Store.MSIX, LIVE)
    stored = guest.stored(Store.MSIX, count=LIVE)
    if not guest.facts().dynamic_msix:
        with pytest.raises(ControlError) as refused:
            guest.alloc(Store.MSIX, index=LIVE)
        assert refused.value.errno == errno.EOPNOTSUPP
        deliver(ims_device, Store.MSIX, *range(LIVE))
        return

    load = ims_device.model.burst(Store.MSIX, range(LIVE), LOAD)
    rounds = 0
    while not load.over or rounds < 2:
        grow_and_shrink(ims_device)
        rounds += 1
    load.wait(Deadline(60, "the interrupts of the live vectors"))

    live = guest.interrupts(Store.MSIX)
    assert [item.index for item in live] == list(range(LIVE))
    assert sum(sum(item.counts) for item in live) == LOAD
    assert guest.stored(Store.MSIX, count=LIVE) == stored
    assert len(ims_device.irtes()) == LIVE
    ims_device.check_audit()
    ims_device.model.ledger.assert_quiet()
    # QEMU believes the host: it adds one vector, or gives all of them back and wires all again.
    passed = [str(message) for message in ims_device.machine.events.of(Exchanged)]
    started_again = f"index={IrqIndexNumber.MSIX} start=0 count={ALL} fds={ALL}"
    assert any(message.endswith(started_again) for message in passed) is not resizable


def grow_and_shrink(ims_device: PluggedFunction) -> None:
    """Add vectors one by one up to a full table, and take them away again, the middle first."""
    guest = ims_device.control
    for index in range(LIVE, ALL):
        guest.alloc(Store.MSIX, index=index)
        guest.request(Store.MSIX, index)
        deliver(ims_device, Store.MSIX, index)
    ims_device.check_audit()
    guest.release(Store.MSIX, LIVE + 1)
    guest.free(Store.MSIX, LIVE + 1)
    assert guest.alloc(Store.MSIX, index=ANY).index == LIVE + 1
    guest.request(Store.MSIX, LIVE + 1)
    deliver(ims_device, Store.MSIX, *range(LIVE, ALL))
    guest.release(Store.MSIX, LIVE, ALL - LIVE)
    guest.free(Store.MSIX, LIVE, ALL - LIVE)
