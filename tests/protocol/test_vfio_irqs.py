"""DEVICE_SET_IRQS in all its forms."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from harness.spec.vfio import IrqInfoFlags, IrqSetFlags
from harness.vfio_user.client import Client
from harness.vfio_user.device import Bus, IrqIndex
from tests.protocol.scratch_device import INTX, MSI, MSIX, SILENT, ScratchDevice
from tests.protocol.vfio_checks import eventfds, refused, signals

NONE, BOOL, EVENTFD = IrqSetFlags.DATA_NONE, IrqSetFlags.DATA_BOOL, IrqSetFlags.DATA_EVENTFD
MASK, UNMASK = IrqSetFlags.ACTION_MASK, IrqSetFlags.ACTION_UNMASK
TRIGGER = IrqSetFlags.ACTION_TRIGGER


@pytest.fixture
def bus(client: Client, device: ScratchDevice) -> Bus:
    assert device.bus is not None
    return device.bus


def test_irq_info_is_what_the_device_says(client: Client) -> None:
    flags = IrqInfoFlags.EVENTFD | IrqInfoFlags.MASKABLE | IrqInfoFlags.AUTOMASKED
    assert client.irq_info(INTX) == IrqIndex(1, flags)
    assert client.irq_info(MSI) == IrqIndex(8, IrqInfoFlags.EVENTFD | IrqInfoFlags.NORESIZE)
    assert client.irq_info(SILENT) == IrqIndex(1, IrqInfoFlags(0))


def test_a_wired_interrupt_is_signalled_and_its_neighbour_is_not(client: Client, bus: Bus) -> None:
    with eventfds(2) as fds:
        client.wire_irqs(MSI, 3, fds)
        assert bus.trigger_irq(MSI, 4)
        assert [signals(fd) for fd in fds] == [0, 1]


def test_an_interrupt_without_eventfd_says_so(client: Client, bus: Bus) -> None:
    assert not bus.irq_is_wired(MSI, 0)
    assert not bus.trigger_irq(MSI, 0)


def test_the_device_is_told_what_changed(client: Client, device: ScratchDevice) -> None:
    with eventfds(3) as fds:
        client.wire_irqs(MSI, 2, fds)
        client.disable_irqs(MSI)
    assert device.log[1:] == [("irqs", MSI, 2, 3), ("irqs", MSI, 0, 8)]


def test_more_vectors_than_one_message_takes_are_all_wired(client: Client, bus: Bus) -> None:
    with eventfds(40) as fds:
        client.wire_irqs(MSIX, 0, fds)
        for vector in range(40):
            bus.trigger_irq(MSIX, vector)
        assert [signals(fd) for fd in fds] == [1] * 40


def test_a_sparse_set_wires_only_what_is_given(client: Client, bus: Bus) -> None:
    with eventfds(2) as (low, high):
        client.wire_irqs(MSI, 0, [low, None, None, high])
        assert [bus.irq_is_wired(MSI, vector) for vector in range(4)] == [True, False, False, True]


def test_part_of_the_vectors_can_be_taken_away(client: Client, bus: Bus) -> None:
    with eventfds(3) as fds:
        client.wire_irqs(MSI, 0, fds)
        client.wire_irqs(MSI, 1, [None])
        assert [bus.irq_is_wired(MSI, vector) for vector in range(3)] == [True, False, True]


def test_disabling_an_index_takes_all_vectors_away_and_no_other_index(
    client: Client, bus: Bus
) -> None:
    with eventfds(3) as fds:
        client.wire_irqs(MSI, 0, fds[:2])
        client.wire_irqs(MSIX, 0, fds[2:])
        client.disable_irqs(MSI)
        assert not bus.irq_is_wired(MSI, 0)
        assert not bus.irq_is_wired(MSI, 1)
        assert bus.irq_is_wired(MSIX, 0)


def test_a_second_eventfd_replaces_the_first(client: Client, bus: Bus) -> None:
    with eventfds(2) as (old, new):
        client.wire_irqs(MSI, 0, [old])
        client.wire_irqs(MSI, 0, [new])
        bus.trigger_irq(MSI, 0)
        assert (signals(old), signals(new)) == (0, 1)


def test_what_is_raised_while_masked_is_signalled_once_on_unmask(client: Client, bus: Bus) -> None:
    with eventfds(1) as (fd,):
        client.wire_irqs(MSIX, 5, [fd])
        client.mask_irqs(MSIX, 5, 1)
        assert bus.trigger_irq(MSIX, 5)
        assert bus.trigger_irq(MSIX, 5)
        assert signals(fd) == 0
        client.unmask_irqs(MSIX, 5, 1)
        assert signals(fd) == 1
        client.unmask_irqs(MSIX, 5, 1)
        assert signals(fd) == 0


def test_disabling_an_index_forgets_its_masks_and_what_was_held(client: Client, bus: Bus) -> None:
    with eventfds(1) as (fd,):
        client.wire_irqs(MSIX, 0, [fd])
        client.mask_irqs(MSIX, 0, 1)
        bus.trigger_irq(MSIX, 0)
        client.disable_irqs(MSIX)
        client.wire_irqs(MSIX, 0, [fd])
        client.unmask_irqs(MSIX, 0, 1)
        assert signals(fd) == 0
        bus.trigger_irq(MSIX, 0)
        assert signals(fd) == 1


def test_an_automasked_interrupt_masks_itself(client: Client, bus: Bus) -> None:
    with eventfds(1) as (fd,):
        client.wire_irqs(INTX, 0, [fd])
        bus.trigger_irq(INTX, 0)
        bus.trigger_irq(INTX, 0)
        assert signals(fd) == 1
        client.unmask_irqs(INTX, 0, 1)
        assert signals(fd) == 1


def test_booleans_choose_the_vectors_of_a_range(client: Client, bus: Bus) -> None:
    with eventfds(3) as fds:
        client.wire_irqs(MSIX, 0, fds)
        client.set_irqs(MSIX, 0, 3, BOOL | TRIGGER, data=b"\1\0\2")
        assert [signals(fd) for fd in fds] == [1, 0, 1]
        client.set_irqs(MSIX, 0, 3, BOOL | MASK, data=b"\0\1\0")
        client.trigger_irqs(MSIX, 0, 3)
        assert [signals(fd) for fd in fds] == [1, 0, 1]
        client.set_irqs(MSIX, 0, 3, BOOL | UNMASK, data=b"\1\1\1")
        assert [signals(fd) for fd in fds] == [0, 1, 0]


def test_a_client_may_trigger_what_is_not_wired(client: Client) -> None:
    client.trigger_irqs(MSI, 0, 8)


def test_mask_and_unmask_eventfds_follow_the_mask(client: Client) -> None:
    with eventfds(2) as (masked, unmasked):
        client.wire_irqs(MSIX, 0, [masked], MASK)
        client.wire_irqs(MSIX, 0, [unmasked], UNMASK)
        client.mask_irqs(MSIX, 0, 1)
        client.mask_irqs(MSIX, 0, 1)
        assert (signals(masked), signals(unmasked)) == (1, 0)
        client.unmask_irqs(MSIX, 0, 1)
        assert (signals(masked), signals(unmasked)) == (0, 1)


def test_an_eventfd_that_is_full_does_not_stop_the_server(client: Client, bus: Bus) -> None:
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        client.wire_irqs(MSI, 0, [fd])
        os.eventfd_write(fd, (1 << 64) - 2)
        client.trigger_irqs(MSI, 0, 1)
        client.device_info()
    finally:
        os.close(fd)


def test_a_refused_request_changes_nothing(client: Client, bus: Bus) -> None:
    with eventfds(2) as (old, new):
        client.wire_irqs(MSI, 0, [old])
        with refused(errno.EINVAL):
            client.set_irqs(MSI, 0, 2, EVENTFD | TRIGGER, fds=[new])
        bus.trigger_irq(MSI, 0)
        assert (signals(old), signals(new)) == (1, 0)


def test_a_descriptor_that_is_no_eventfd_is_refused(client: Client) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, refused(errno.EINVAL):
        client.wire_irqs(MSI, 0, [ours.fileno()])
    client.device_info()


@pytest.mark.parametrize(
    ("flags", "number"),
    [
        pytest.param(EVENTFD, errno.EINVAL, id="no action"),
        pytest.param(TRIGGER, errno.EINVAL, id="no data"),
        pytest.param(NONE | MASK | UNMASK, errno.EINVAL, id="two actions"),
        pytest.param(NONE | BOOL | TRIGGER, errno.EINVAL, id="two kinds of data"),
        pytest.param(NONE | TRIGGER | 1 << 6, errno.EINVAL, id="unknown flag"),
        pytest.param(NONE | MASK, errno.ENOTSUP, id="mask where nothing can be masked"),
        pytest.param(EVENTFD | UNMASK, errno.ENOTSUP, id="unmask eventfd there"),
        pytest.param(BOOL | TRIGGER, errno.EINVAL, id="booleans missing"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    client: Client, flags: IrqSetFlags, number: int
) -> None:
    with refused(number):
        client.set_irqs(MSI, 0, 1, IrqSetFlags(flags))
    client.device_info()


@pytest.mark.parametrize(
    ("index", "start", "count"),
    [
        pytest.param(5, 0, 1, id="no such index"),
        pytest.param(4, 0, 1, id="an index with no vectors"),
        pytest.param(MSI, 8, 1, id="start behind the end"),
        pytest.param(MSI, 7, 2, id="end behind the end"),
        pytest.param(MSI, 0xFFFFFFFF, 2, id="range that wraps"),
        pytest.param(MSI, 1, 0, id="disabling from the middle"),
    ],
)
def test_a_range_outside_of_the_device_is_refused(
    client: Client, index: int, start: int, count: int
) -> None:
    with refused(errno.EINVAL):
        client.set_irqs(index, start, count, NONE | TRIGGER)
    client.device_info()


def test_an_index_with_no_vectors_cannot_be_disabled(client: Client) -> None:
    with refused(errno.EINVAL):
        client.disable_irqs(4)


def test_data_that_does_not_fit_the_request_is_refused(client: Client) -> None:
    with eventfds(2) as fds:
        for count, flags, data, given in [
            (2, BOOL | TRIGGER, b"\1", []),
            (2, NONE | TRIGGER, b"\1\1", []),
            (2, EVENTFD | TRIGGER, b"\0\0\0\0", fds),
            (1, EVENTFD | TRIGGER, b"", fds),
            (1, NONE | TRIGGER, b"", fds[:1]),
            (0, EVENTFD | TRIGGER, b"", []),
            (0, NONE | MASK, b"", []),
        ]:
            with refused(errno.EINVAL):
                client.set_irqs(MSIX, 0, count, flags, data=data, fds=given)
    client.device_info()


def test_an_index_that_signals_no_eventfds_refuses_them(client: Client) -> None:
    with eventfds(1) as fds, refused(errno.EINVAL):
        client.wire_irqs(SILENT, 0, fds)
