"""A driver in user space, over the in-tree client: it takes pairs, uses them, and says so.

Run as a program it is given its connection as a descriptor. It prints the number of each eventfd
that is signalled, a line each, until it is killed.
"""

from __future__ import annotations

import os
import select
import socket
import sys

from harness.devices.ims_function.user_driven import IMS_IRQ, PAIRS_REGION
from harness.spec import ims_function as regs
from harness.spec.msi import MessageEntry
from harness.spec.pci import Command, Header
from harness.spec.vfio import RegionIndex
from harness.vfio_user.client import Client

READY = "ready"


def pair_of(client: Client, index: int) -> bytes:
    """Return the pair of an entry, as it is to stand in the array."""
    return client.region_read(PAIRS_REGION, index * MessageEntry.SIZE, MessageEntry.SIZE)


def store(client: Client, index: int, pair: bytes) -> None:
    """Put a pair into the IMS array, unmasked."""
    for half in (0, 8):
        at = index * MessageEntry.SIZE + half
        client.region_write(regs.BAR_IMS, at, pair[half : half + 8])


def drive(client: Client, count: int) -> None:
    """Take so many interrupts and print which of them come."""
    command = Command(memory_space=1, bus_master=1).pack()
    client.region_write(RegionIndex.CONFIG, Header.COMMAND, command)
    eventfds = [os.eventfd(0) for _ in range(count)]
    client.wire_irqs(IMS_IRQ, 0, eventfds)
    for index in range(count):
        store(client, index, pair_of(client, index))
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    poll = select.poll()
    for fd in eventfds:
        poll.register(fd, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            os.eventfd_read(fd)
            sys.stdout.write(f"{eventfds.index(fd)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    with Client(socket.socket(fileno=int(sys.argv[1]))) as driver:
        drive(driver, int(sys.argv[2]))
